"""Ask a question for each row of a spreadsheet, and put the answers beside the rows.

python spreadsheet.py questions products.csv >questions.jsonl
litellm-example --questions questions.jsonl --out answers.jsonl
python spreadsheet.py answers products.csv answers.jsonl >answered.csv
"""

from __future__ import annotations

import csv
import json
import sys

PROMPT = "Describe {name} in one sentence."  # with the columns of the spreadsheet in braces
NEW = ("answer", "sources", "cost", "status", "error")


def rows(path: str) -> csv.DictReader[str]:
    return csv.DictReader(open(path, newline="", encoding="utf-8-sig"))


def cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in tuple("=+-@") else text  # spreadsheets would take it for a formula


def write_questions(path: str) -> None:
    for number, row in enumerate(rows(path), 1):
        print(json.dumps({"id": number, "prompt": PROMPT.format(**row)}, ensure_ascii=False))


def write_answers(path: str, answers: str) -> None:
    with open(answers, encoding="utf-8") as file:
        found = {answer["id"]: answer for answer in map(json.loads, file)}
    sheet = rows(path)
    writer = csv.DictWriter(sys.stdout, [*(sheet.fieldnames or ()), *NEW])
    writer.writeheader()
    for number, row in enumerate(sheet, 1):
        answer = found.get(number, {"status": "not asked"})
        pages = " ".join(page["url"] for page in answer.get("sources", ()))
        facts = {"answer": answer.get("text"), "sources": pages}
        facts |= {name: answer.get(name) for name in ("cost", "status", "error")}
        writer.writerow({**row, **{name: cell(value) for name, value in facts.items()}})


match sys.argv[1:]:
    case ["questions", path]:
        write_questions(path)
    case ["answers", path, answers]:
        write_answers(path, answers)
    case _:
        sys.exit(__doc__)
