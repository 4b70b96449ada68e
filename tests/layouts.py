"""The public layouts that are known: rows as their columns have them, what is read of them, and the table in docs/layouts.md.

python -m tests.layouts > docs/layouts.md
"""

import json
from typing import Any, NamedTuple

import orjson

from stages.conversations.canonical import canonical_form
from stages.conversations.dialect_detection import detect_dialect
from stages.conversations.dialects import Dialect
from stages.core.errors import StageError

Messages = list[tuple[Any, ...]]


class Layout(NamedTuple):
    """One public layout."""

    sets: str
    """Who writes it."""
    row: dict[str, Any]
    becomes: str
    """What becomes of it, for people."""
    name: str | None
    """The dialect; None: it is refused."""
    messages: Messages | str
    """The canonical messages; of a refused one what the refusal says."""
    tools: Any = None
    """The canonical tools' functions."""
    hostile: dict[str, Any] | None = None
    """Columns that are otherwise in a row that a rule sets aside."""
    rule: str = ""


def call(tool: str, identity: str | None = None, /, **arguments: object) -> dict[str, Any]:
    """A canonical call."""
    return {"type": "function", "function": {"name": tool, "arguments": arguments}} | (
        {"id": identity} if identity else {}
    )


WEATHER = {
    "name": "weather",
    "description": "d",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
OPENAI_TOOL = {"type": "function", "function": WEATHER}
USER, ANSWER = ("user", "q"), ("assistant", "a")
ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
FROM = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
CALLED: Messages = [
    USER,
    ("assistant", "", {"tool_calls": [call("weather", "c1", city="Oslo")]}),
    ("tool", "rain"),
    ("assistant", "It rains."),
]
UNNAMED: Messages = [USER, ("assistant", "", {"tool_calls": [call("weather", city="Oslo")]}), *CALLED[2:]]
GLAIVE_TOOL = '{\n  "name": "weather",\n  "description": "d",\n  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}\n}'


def text(value: object) -> str:
    """A value as JSON text."""
    return json.dumps(value)


LAYOUTS = (
    Layout(
        "role/content messages (Tulu 3, UltraChat 200k, smoltalk, OpenAI)",
        {"id": "1", "messages": [ASKED, ANSWERED], "source": "s"},
        "the conversation",
        "messages: role/content",
        [USER, ANSWER],
        hostile={"messages": [{"role": "wizard", "content": "q"}, ANSWERED]},
        rule="unknown_role",
    ),
    Layout(
        "smoltalk2",
        {
            "messages": [ASKED, ANSWERED],
            "chat_template_kwargs": {"enable_thinking": False, "custom_instructions": "", "xml_tools": []},
            "source": "s",
        },
        "the conversation; its options reach the chat template",
        "messages: role/content",
        [USER, ANSWER],
        hostile={"chat_template_kwargs": 3},
        rule="options_unreadable",
    ),
    Layout(
        "ShareGPT",
        {"id": "1", "conversations": FROM},
        "the conversation",
        "conversations: from/value",
        [USER, ANSWER],
        hostile={"conversations": [{"human": "q"}]},
        rule="layout",
    ),
    Layout(
        "xLAM function calling",
        {
            "id": 0,
            "query": "q",
            "answers": text(
                [{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "weather", "arguments": {"city": "Rome"}}]
            ),
            "tools": text(
                [
                    {
                        "name": "weather",
                        "description": "d",
                        "parameters": {"city": {"description": "c", "type": "str"}, "days": {"type": "int, optional"}},
                    }
                ]
            ),
        },
        "the calls of one answer, beside the tools; bare parameters become a JSON schema",
        "query/tools/answers: calls",
        [USER, ("assistant", "", {"tool_calls": [call("weather", city="Oslo"), call("weather", city="Rome")]})],
        [
            {
                "name": "weather",
                "description": "d",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"description": "c", "type": "string"}, "days": {"type": "integer"}},
                    "required": ["city"],
                },
            }
        ],
        hostile={"answers": '[{"name": "weather", "arguments": "x"}]'},
        rule="tool_call_unreadable",
    ),
    Layout(
        "Hermes function calling",
        {
            "id": "1",
            "conversations": [
                {"from": "system", "value": f"Call. <tools> {text([OPENAI_TOOL])} </tools>"},
                FROM[0],
                {
                    "from": "gpt",
                    "value": '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
                },
                {"from": "tool", "value": "<tool_response>\nrain\n</tool_response>"},
                {"from": "gpt", "value": "It rains."},
            ],
            "tools": text([OPENAI_TOOL]),
            "category": "c",
        },
        "the conversation; tools that stand in the system's text between `<tools>` and `</tools>` are not written a second time",
        "conversations: from/value",
        [
            ("system", f"Call. <tools> {text([OPENAI_TOOL])} </tools>"),
            USER,
            ("assistant", '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'),
            ("tool", "<tool_response>\nrain\n</tool_response>"),
            ("assistant", "It rains."),
        ],
        hostile={"tools": "[3]"},
        rule="tools_unreadable",
    ),
    Layout(
        "APIGen-MT",
        {
            "conversations": [
                FROM[0],
                {"from": "function_call", "value": text({"name": "weather", "arguments": {"city": "Oslo"}})},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "It rains."},
            ],
            "tools": text([WEATHER]),
            "system": "s",
        },
        "the conversation with its calls",
        "conversations: from/value",
        [("system", "s"), *UNNAMED],
        [WEATHER],
        hostile={"conversations": [FROM[0], {"from": "function_call", "value": "weather()"}, FROM[1]]},
        rule="tool_call_unreadable",
    ),
    Layout(
        "ToolACE",
        {
            "system": f"Functions: {text([WEATHER])}",
            "conversations": [
                {"from": "user", "value": "q"},
                {"from": "assistant", "value": '[weather(city="Oslo")]'},
                {"from": "tool", "value": "rain"},
                {"from": "assistant", "value": "It rains."},
            ],
        },
        "the conversation; the calls stay the text that its system's message asks for",
        "conversations: from/value",
        [
            ("system", f"Functions: {text([WEATHER])}"),
            USER,
            ("assistant", '[weather(city="Oslo")]'),
            ("tool", "rain"),
            ("assistant", "It rains."),
        ],
        hostile={"system": 3},
        rule="content_not_text",
    ),
    Layout(
        "Glaive function calling v2",
        {
            "system": f"SYSTEM: You may call. Use them if required -\n{GLAIVE_TOOL}",
            "chat": 'USER: q\n\n\nASSISTANT: <functioncall> {"name": "weather", "arguments": \'{"city": "Oslo"}\'} <|endoftext|>\n\n\n'
            "FUNCTION RESPONSE: rain\n\n\nASSISTANT: It rains. <|endoftext|>\n",
        },
        "the conversation with its calls; the tools that the system's text lists become the row's tools",
        "chat: text in USER/ASSISTANT form",
        [("system", "You may call. Use them if required -"), *UNNAMED],
        [WEATHER],
        hostile={"chat": "USER: q\n\nASSISTANT: <functioncall> {name}"},
        rule="tool_call_unreadable",
    ),
    Layout(
        "Glaive function calling v1",
        {
            "sample": f"SYSTEM: You may call. Use them if required -\n{GLAIVE_TOOL} USER: q ASSISTANT: <functioncall> "
            '{"name": "weather", "arguments": {"city": "Oslo"}} FUNCTION RESPONSE: rain ASSISTANT: It rains.'
        },
        "the same",
        "sample: text in USER/ASSISTANT form",
        [("system", "You may call. Use them if required -"), *UNNAMED],
        [WEATHER],
        hostile={"sample": "q USER: q ASSISTANT: a"},
        rule="transcript_unreadable",
    ),
    Layout(
        "OpenThoughts",
        {
            "system": "s",
            "conversations": [
                {"from": "user", "value": "q"},
                {
                    "from": "assistant",
                    "value": "<|begin_of_thought|>\n\nt\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\na\n\n<|end_of_solution|>",
                },
            ],
        },
        "the conversation; thoughts and answer apart",
        "conversations: from/value",
        [("system", "s"), USER, ("assistant", "a", {"reasoning": "t"})],
        hostile={"conversations": []},
        rule="no_messages",
    ),
    Layout(
        "s1K",
        {
            "question": "q",
            "solution": "x",
            "cot_type": "math",
            "source_type": "s",
            "metadata": "{}",
            "cot": None,
            "thinking_trajectories": ["t"],
            "attempt": "a",
        },
        "question and attempt, with the trajectory as its reasoning",
        "question/thinking_trajectories/attempt",
        [USER, ("assistant", "a", {"reasoning": "t"})],
        hostile={"thinking_trajectories": ["t", "u"]},
        rule="content_not_text",
    ),
    Layout(
        "s1K 1.1",
        {
            "question": "q",
            "deepseek_thinking_trajectory": "t",
            "deepseek_attempt": "a",
            "gemini_thinking_trajectory": "u",
            "gemini_attempt": "b",
        },
        "refused as not clear: name the attempt that is to be learned (`--columns prompt=question,answer=deepseek_attempt`), its trajectory is its reasoning",
        None,
        "several layouts fit the same rows",
    ),
    Layout(
        "Multilingual-Thinking",
        {
            "reasoning_language": "French",
            "developer": "s",
            "user": "q",
            "analysis": "t",
            "final": "a",
            "messages": [
                {"role": "system", "content": "reasoning language: French", "thinking": None},
                {**ASKED, "thinking": None},
                {**ANSWERED, "thinking": "t"},
            ],
        },
        "its messages with their thoughts; the other columns say the same again",
        "messages: role/content",
        [("system", "reasoning language: French"), USER, ("assistant", "a", {"reasoning": "t"})],
        hostile={"messages": [ASKED, {**ANSWERED, "thinking": 3}]},
        rule="reasoning_not_text",
    ),
    Layout(
        "Harmony columns",
        {"developer": "s", "user": "q", "analysis": "t", "final": "a"},
        "question and answer, with the analysis as its reasoning",
        "user/analysis/final",
        [("system", "s"), USER, ("assistant", "a", {"reasoning": "t"})],
        hostile={"final": ""},
        rule="reasoning_alone",
    ),
    Layout(
        "thoughts beside a pair (medical-o1)",
        {"Question": "q", "Complex_CoT": "t", "Response": "a"},
        "question and answer, with the thoughts as its reasoning",
        "question/complex_cot/response (in any case)",
        [USER, ("assistant", "a", {"reasoning": "t"})],
        hostile={"Complex_CoT": 1.5, "Response": None},
        rule="reasoning_not_text",
    ),
    Layout(
        "Nemotron post-training v1",
        {
            "input": [ASKED],
            "output": "a",
            "category": "chat",
            "reasoning": "off",
            "system_prompt": "detailed thinking off",
            "used_in_training": "yes",
        },
        "the earlier messages with the answer; `reasoning` says whether there was thought, so it is none",
        "input/output",
        [("system", "detailed thinking off"), USER, ANSWER],
        hostile={"input": [{"role": "user"}]},
        rule="null_content",
    ),
    Layout(
        "Nemotron post-training v2, agentic",
        {
            "uuid": "u",
            "messages": text([ASKED, {"role": "assistant", "content": "a", "reasoning_content": "t"}]),
            "tools_json": text([OPENAI_TOOL]),
            "reasoning": "on",
        },
        "the conversation that its JSON text holds, with the tools of `tools_json` (or of `metadata`)",
        "messages: role/content",
        [USER, ("assistant", "a", {"reasoning": "t"})],
        [OPENAI_TOOL["function"]],
        hostile={"messages": '[{"role": "user"'},
        rule="layout",
    ),
    Layout(
        "Alpaca",
        {"instruction": "q", "input": "", "output": "a", "text": "Below is an instruction"},
        "instruction, a line break and the input as the question",
        "instruction/input/output",
        [USER, ANSWER],
        hostile={"input": ["x"]},
        rule="content_not_text",
    ),
    Layout(
        "Dolly",
        {"instruction": "q", "context": "c", "response": "a", "category": "qa"},
        "instruction, a line break and the context as the question",
        "instruction/context/response",
        [("user", "q\nc"), ANSWER],
        hostile={"response": " "},
        rule="empty_content",
    ),
    Layout(
        "OASST, trees",
        {
            "message_tree_id": "m",
            "tree_state": "ready_for_export",
            "prompt": {
                "text": "q",
                "role": "prompter",
                "replies": [
                    {
                        "text": "worse",
                        "role": "assistant",
                        "rank": 1,
                        "replies": [{"text": "x", "role": "prompter", "replies": []}],
                    },
                    {"text": "a", "role": "assistant", "rank": 0, "replies": []},
                ],
            },
        },
        "one path of the tree, by `standardize.trees`: `best_ranked`, `longest`, or `refuse`",
        "prompt: tree of replies, best-ranked path",
        [USER, ANSWER],
        hostile={"prompt": {"text": "q", "role": "prompter", "replies": ["a"]}},
        rule="layout",
    ),
    Layout(
        "OASST, one message a row",
        {"message_id": "2", "parent_id": "1", "text": "a", "role": "assistant", "rank": 0, "message_tree_id": "1"},
        "refused: its conversations are paths through several rows; the file of trees is read",
        None,
        "messages one a row, each with the message that it answers.*trees",
    ),
    Layout(
        "UltraChat",
        {"id": "1", "data": ["q", "a"]},
        "the texts in turn, the user's first",
        "data: texts in turn",
        [USER, ANSWER],
        hostile={"data": ["q", "a", "q2"]},
        rule="ends_without_answer",
    ),
    Layout(
        "WildChat",
        {
            "conversation_hash": "h",
            "model": "m",
            "conversation": [
                {
                    **ASKED,
                    "country": "x",
                    "hashed_ip": "y",
                    "language": "English",
                    "redacted": False,
                    "toxic": False,
                    "turn_identifier": 1,
                },
                {
                    **ANSWERED,
                    "country": None,
                    "hashed_ip": None,
                    "language": "English",
                    "redacted": False,
                    "toxic": False,
                    "turn_identifier": 1,
                },
            ],
            "toxic": False,
            "openai_moderation": [{"flagged": False}],
        },
        "the conversation; what is said about it is ignored",
        "conversation: role/content",
        [USER, ANSWER],
        hostile={"conversation": [ASKED, ASKED]},
        rule="roles_not_alternating",
    ),
    Layout(
        "LMSYS-Chat-1M",
        {
            "conversation_id": "1",
            "model": "m",
            "conversation": [ASKED, ANSWERED],
            "turn": 1,
            "openai_moderation": [{"flagged": False}],
            "redacted": False,
        },
        "the conversation",
        "conversation: role/content",
        [USER, ANSWER],
        hostile={"conversation": "q"},
        rule="layout",
    ),
    Layout(
        "HelpSteer, HelpSteer 2",
        {
            "prompt": "q",
            "response": "a",
            "helpfulness": 4,
            "correctness": 4,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 1,
        },
        "prompt and response; the scores are ignored",
        "prompt/response",
        [USER, ANSWER],
        hostile={"prompt": None},
        rule="null_content",
    ),
    Layout(
        "HelpSteer 2, several turns",
        {"prompt": "q\n<extra_id_1>Assistant\na\n<extra_id_1>User\nq2", "response": "a2", "helpfulness": 4},
        "the same; the earlier turns in the prompt are context",
        "prompt/response",
        [USER, ("assistant", "a", {"train": False}), ("user", "q2"), ("assistant", "a2")],
        hostile={"prompt": "q\n<extra_id_1>Wizard\na\n<extra_id_1>User\nq2"},
        rule="unknown_role",
    ),
    Layout(
        "HelpSteer 3, PKU-SafeRLHF, Arena",
        {"context": [ASKED], "response1": "a", "response2": "b", "overall_preference": 1},
        "refused: two answers to one question",
        None,
        "preference data.*two answers",
    ),
    Layout(
        "preference pairs (Tulu 3 preferences, UltraFeedback binarized)",
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        "refused: a better and a worse answer; naming columns learns the better one",
        None,
        "preference data",
    ),
    Layout(
        "Anthropic's messages",
        {
            "system": "s",
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "rain"}]}
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "It rains."}]},
            ],
            "tools": [{"name": "weather", "description": "d", "input_schema": WEATHER["parameters"]}],
        },
        "the conversation; calls and results as the chat template writes them",
        "messages: role/content",
        [
            ("system", "s"),
            USER,
            ("assistant", "I look.", {"tool_calls": [call("weather", "c1", city="Oslo")]}),
            *CALLED[2:],
        ],
        [WEATHER],
        hostile={
            "messages": [ASKED, {"role": "assistant", "content": [{"type": "tool_use", "name": "weather", "input": 3}]}]
        },
        rule="tool_call_unreadable",
    ),
    Layout(
        "Gemini's contents",
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "q"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Oslo"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {"sky": "rain"}}}]},
                {"role": "model", "parts": [{"text": "It "}, {"text": "rains."}]},
            ],
            "tools": [
                {
                    "functionDeclarations": [
                        {
                            "name": "weather",
                            "description": "d",
                            "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}},
                        }
                    ]
                }
            ],
        },
        "the conversation; calls and results as the chat template writes them",
        "contents: role/parts",
        [("system", "s"), *UNNAMED[:2], ("tool", '{"sky":"rain"}'), ("assistant", "It rains.")],
        [WEATHER],
        hostile={
            "contents": [
                {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "x"}}]},
                {"role": "model", "parts": [{"text": "a"}]},
            ]
        },
        rule="media",
    ),
    Layout(
        "ChatML text",
        {
            "text": "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        },
        "the conversation, taken out of the text",
        "text: text in ChatML form",
        [("system", "s"), USER, ANSWER],
        hostile={"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na"},
        rule="transcript_unreadable",
    ),
    Layout(
        "Llama 3 text",
        {
            "text": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
        },
        "the same; the dates that the template writes by itself are taken off",
        "text: text in Llama 3 form",
        [USER, ANSWER],
        hostile={
            "text": "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>and<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
        },
        rule="transcript_unreadable",
    ),
    Layout(
        "Llama 2 and Mistral text",
        {"text": "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST] a </s><s>[INST] q2 [/INST] a2 </s>"},
        "the same",
        "text: text in Llama 2 form",
        [("system", "s"), USER, ANSWER, ("user", "q2"), ("assistant", "a2")],
        hostile={"text": "<s>[INST] q [INST] r [/INST] a </s>"},
        rule="transcript_unreadable",
    ),
    Layout(
        "Gemma text",
        {"text": "<bos><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n"},
        "the same",
        "text: text in Gemma form",
        [USER, ANSWER],
        hostile={"text": "<start_of_turn>user\nq<start_of_turn>model\na<end_of_turn>\n"},
        rule="transcript_unreadable",
    ),
    Layout(
        "Zephyr and Phi 3 text",
        {"text": "<|system|>\ns</s>\n<|user|>\nq</s>\n<|assistant|>\na</s>\n"},
        "the same",
        "text: text in Zephyr form",
        [("system", "s"), USER, ANSWER],
        hostile={"text": "<|user|>\nq</s>\n<|assistant|>\na"},
        rule="transcript_unreadable",
    ),
    Layout(
        "Guanaco text",
        {"text": "### Human: q### Assistant: a### Human: q2### Assistant: a2"},
        "the same",
        "text: text in ### Human form",
        [USER, ANSWER, ("user", "q2"), ("assistant", "a2")],
        hostile={"text": "q### Human: q### Assistant: a"},
        rule="transcript_unreadable",
    ),
    Layout(
        "bare text",
        {"text": "once"},
        "refused: nothing says what is asked and what is answered",
        None,
        "bare text",
    ),
    Layout(
        "SQuAD",
        {
            "id": "1",
            "title": "t",
            "context": "c",
            "question": "q",
            "answers": {"text": ["a", "b"], "answer_start": [0, 1]},
        },
        "the question, a line break and its context; the first of the right answers",
        "question/context/answers: the first answer",
        [("user", "q\nc"), ANSWER],
        hostile={"answers": {"text": [], "answer_start": []}},
        rule="empty_content",
    ),
    Layout(
        "NQ open, TriviaQA",
        {"question": "q", "answer": ["a", "b"]},
        "the question; the first of the right answers",
        "question/answer: the first answer",
        [USER, ANSWER],
        hostile={"answer": [{"a": 1}]},
        rule="content_not_text",
    ),
    Layout(
        "multiple choice (MMLU, ARC)",
        {"question": "q", "choices": ["a", "b"], "answer": 1},
        "refused: the answer is the number or letter of a choice that the question does not show",
        None,
        "multiple-choice",
    ),
    Layout(
        "numbers as answers",
        {"question": "q", "answer": 4},
        "the number as JSON writes it",
        "question/answer",
        [USER, ("assistant", "4")],
        hostile={"answer": None},
        rule="null_content",
    ),
)


def detect(row: dict[str, Any]) -> Dialect:
    """The dialect of a source of such rows. Raises StageError."""
    dialect = detect_dialect([orjson.dumps(row)], None, "it")
    if dialect is None:
        raise StageError("it holds no object")
    return dialect


def read(row: dict[str, Any], dialect: Dialect) -> tuple[Messages, Any]:
    """(canonical messages, functions of the canonical tools) of a row. Raises Rejected."""
    messages, tools, *_ = canonical_form(row, dialect)
    return messages, [tool["function"] for tool in orjson.loads(tools)] if tools else None


def print_table() -> str:
    """docs/layouts.md."""
    lines = [
        "# Layouts that are known",
        "",
        "A dataset's layout is recognized by its first 1,000 rows; `retune inspect FILE` says which it is and what each column is used for.",
        "A layout that is not here: name its columns (`--columns prompt=COLUMN,answer=COLUMN` or `--columns messages=COLUMN`).",
        "Each row of this table is a test; `python -m tests.layouts` prints the page.",
        "",
        "| who writes it | columns | read as | what becomes of it |",
        "|---|---|---|---|",
    ]
    for layout in LAYOUTS:
        columns = ", ".join(f"`{name}`" for name in layout.row)
        lines.append(
            f"| {layout.sets} | {columns} | {f'`{layout.name}`' if layout.name else 'refused'} | {layout.becomes} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(print_table())  # noqa: T201 - the page goes to the command's output
