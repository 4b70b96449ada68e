"""What all tests stand on."""

import signal

# a shell that starts pytest in the background has it ignore SIGINT, and so would all that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
