"""All silos' answers to the contract are one table before round 1, without a value."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import meadow
from conf.border import across, heard
from conf.errors import DataError
from server.round.contract_answers import KEEPS, Answer, of_error, of_reason, say, table

AGE = {"column": "age", "expected": "a number from 0 to 120", "found": "text"}
OTHERS = {**AGE, "others": "sex = one of 2 values = missing; ill = yes or no = neither yes nor no"}
BROKEN = DataError("MDW-242", "secret/rows.csv: row 7", "Correct it.", {**OTHERS})


@pytest.mark.parametrize("in_words", [True, False])
def test_a_silos_answer_is_a_line_for_each_column(in_words: bool) -> None:
    line = heard(across(BROKEN)) if in_words else across(BROKEN)
    wanted = [
        Answer("north", "age", "a number from 0 to 120", "text", "MDW-242"),
        Answer("north", "sex", "one of 2 values", "missing", "MDW-242"),
        Answer("north", "ill", "yes or no", "neither yes nor no", "MDW-242"),
    ]
    assert of_error("north", BROKEN) == wanted
    assert of_reason("north", line) == wanted


def test_the_table_has_a_line_for_who_keeps_it_and_no_text_of_an_error() -> None:
    lines = table([*of_error("south", BROKEN), Answer("north")])
    assert lines[0].split("  ")[0] == "silo"
    assert lines[1].startswith("north") and KEEPS in lines[1]
    assert "age" in lines[2] and "secret" not in "".join(lines)


def test_an_error_without_fields_is_still_a_line(caplog: pytest.LogCaptureFixture) -> None:
    answers = of_reason("west", "the silo says MDW-341 (allowed mlp, asked model=cnn)")
    assert answers == [Answer("west", "", "", "can't take part", "MDW-341")]
    assert of_reason("west", None)[0].code == ""
    with caplog.at_level(logging.INFO):
        say([Answer("a"), Answer("b")])
    assert "2 silo(s) keep the data contract" in caplog.text


def test_a_simulation_asks_every_silo_before_it_says_that_one_breaks_the_contract(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = "age,ill\n" + "".join(f"{20 + n},{n % 2}\n" for n in range(40))
    (tmp_path / "a.csv").write_text(good)
    (tmp_path / "b.csv").write_text(good.replace("25,", "old,").replace(",1", ",maybe"))
    (tmp_path / "c.csv").write_text(good.replace("age", "years"))
    (tmp_path / "f.yaml").write_text(
        "silos:\n"
        + "".join(f"  {name}: {{data: {{partition: own, root: {name}.csv}}}}\n" for name in "abc")
    )
    columns = "[{name: age, low: 0, high: 120}, {name: ill, type: flag}]"
    with pytest.raises(DataError, match="b: ") as caught:
        meadow.simulate(
            [
                *(
                    "tracking=off",
                    f"run.output={tmp_path}",
                    f"federation.file={tmp_path / 'f.yaml'}",
                ),
                *("task=table", "task.label=ill", f"task.columns={columns}"),
            ]
        )
    assert caught.value.code == "MDW-242"
    told = [record.getMessage() for record in caplog.records]
    begin = next(n for n, line in enumerate(told) if line.startswith("silo "))
    rows = told[begin + 1 : begin + 5]
    assert [row.split()[0] for row in rows] == ["a", "b", "b", "c"]
    assert "old" not in "".join(rows) and "maybe" not in "".join(rows)
