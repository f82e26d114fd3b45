import csv
import json
import logging
import re

import pytest

from sppnet.tables import escape
from sppnet.tables.render import to_csv, to_json, to_latex, to_markdown
from sppnet.tables.results import read_table
from sppnet.tables.terminal import to_terminal

CLAIM = {
    "id": "spp_beats_no_spp",
    "section": "3.1.2",
    "text": "SPP beats no SPP",
    "kind": "better",
    "along": "rows",
    "better": "spp_single",
    "worse": "no_spp",
    "metric": "test/top1_error",
}
HOSTILE = {
    "spp_single": "=cmd()|' /C calc'!A0",
    "no_spp": "<script>alert(1)</script> [red]x[/red] | \x1b[31m\n# y_1 & 100% $x$ \\end{tabular}",
}


@pytest.fixture
def table(sweep):
    """Two seeds: ZF-5 complete in both rows, Overfeat-7 partial, failed."""
    sweep.describe(seeds=[0, 1], claims=[CLAIM])
    for seed, (without, with_spp) in enumerate([(0.36, 0.34), (0.38, 0.36)]):
        sweep.run("no_spp", "zf5", without, seed=seed)
        sweep.run("spp_single", "zf5", with_spp, seed=seed)
    sweep.run("no_spp", "overfeat7", 0.32)
    sweep.stopped("spp_single", "overfeat7", "failed", error="out of memory")
    return read_table(sweep.directory)


@pytest.fixture
def hostile(sweep):
    sweep.describe(rows=HOSTILE, reduced=["=1+1"], title="T_2 <b>")
    sweep.run("no_spp", "zf5", 0.36)
    return read_table(sweep.directory)


def _terminal(table, width=80, is_coloured=False):
    return to_terminal(table, width=width, is_coloured=is_coloured)


def test_json_has_one_entry_per_cell_with_the_headline_on_top(table):
    value = json.loads(json.dumps(to_json(table), allow_nan=False))
    assert (value["table"], value["preset"]) == ("table2", "mini")
    assert (value["rows"], value["columns"]) == (["no_spp", "spp_single"], ["zf5", "overfeat7"])
    assert value["row_labels"]["no_spp"] == "(a) no SPP"
    assert len(value["cells"]) == 4
    first = value["cells"][0]
    assert first["std"] == pytest.approx(2**0.5)
    assert {key: first[key] for key in ("row", "column", "ours", "n", "paper", "status")} == {
        "row": "no_spp",
        "column": "zf5",
        "ours": 37.0,
        "n": 2,
        "paper": 35.99,
        "status": "complete",
    }
    assert first["metrics"]["test/top1_error"]["ours"] == 37.0
    assert [cell["status"] for cell in value["cells"]] == ["complete", "partial", "complete", "failed"]
    assert value["cells"][3]["ours"] is None
    assert value["claims"][0]["id"] == "spp_beats_no_spp"
    assert value["claims"][0]["verdict"] == "undecided"
    assert value["claims"][0]["contrasts"][0]["values"] == [2.0, 2.0]
    assert value["runs"][0]["repeat"] == 0
    assert value["runs"][0]["commit"] == "abc1234"


def test_csv_has_a_row_per_cell_and_repeat_and_a_column_per_metric(table):
    lines = list(csv.DictReader(to_csv(table).splitlines()))
    assert len(lines) == 8
    assert (lines[0]["row"], lines[0]["column"], lines[0]["seed"]) == ("(a) no SPP", "ZF-5", "0")
    assert (lines[0]["top-1 error (%)"], lines[0]["paper: top-1 error (%)"]) == ("36.0", "35.99")
    assert [line["top-1 error (%)"] for line in lines] == ["36.0", "38.0", "32.0", "", "34.0", "36.0", "", ""]
    assert [line["status"] for line in lines[-2:]] == ["failed", "missing"]


def test_numbers_on_other_data_are_not_set_against_the_papers(sweep):
    sweep.describe(paper_data=["ImageNet 2012"])
    sweep.run("no_spp", "zf5", 0.312)
    table = read_table(sweep.directory)
    assert table.cells["no_spp", "zf5"].measured["test/top1_error"].difference is None
    assert "| 31.20 (35.99) |" in to_markdown(table)


def test_a_part_of_a_data_set_is_not_called_by_its_name_alone(sweep):
    sweep.describe(data="VOC 2007 (weights w)", tested="VOC 2007", num_test=4952)
    sweep.run("no_spp", "zf5", 0.312, num_images=600)
    table = read_table(sweep.directory)
    assert table.data == "images in VOC 2007's layout, 600 test images where VOC 2007 has 4952 (weights w)"
    sweep.run("no_spp", "overfeat7", 0.312, num_images=4952)  # one that is whole does not make the other so
    assert read_table(sweep.directory).cells["no_spp", "zf5"].measured["test/top1_error"].difference is None
    assert table.cells["no_spp", "zf5"].measured["test/top1_error"].difference is None


def test_a_table_without_paper_numbers_has_no_lines_for_them(sweep):
    sweep.describe(paper={})
    sweep.run("no_spp", "zf5", 0.312)
    text = _terminal(read_table(sweep.directory))
    assert "31.20" in text
    assert "paper  " not in text
    assert "not run yet: (b) SPP" in text


def test_markdown_shows_ours_beside_the_papers_and_every_gap_in_words(table):
    text = to_markdown(table)
    assert "| (a) no SPP | 37.00 ± 1.41 (35.99, +1.01) | 32.00 (1 of 2 seeds) |" in text
    assert "| (b) SPP | 35.00 ± 1.41 (34.98, +0.02) | failed |" in text
    assert "- ? undecided: SPP beats no SPP (§3.1.2) - ZF-5 +2.00 (paper +1.01), not finished: Over" in text
    assert "    sppnet experiment=table2 preset=mini" in text


def test_latex_has_booktabs_rows_and_real_minus_signs(sweep):
    sweep.describe()
    sweep.run("no_spp", "zf5", 0.312)
    text = to_latex(read_table(sweep.directory))
    assert r"(a) no SPP & 31.20 (35.99, $-4.79$) & missing \\" in text
    assert r"top-1 error (\%) & ZF-5 & Overfeat-7 \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_the_terminal_shows_three_lines_a_row_within_eighty_columns(table):
    text = _terminal(table)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    ours = next(line for line in lines if line.strip().startswith("(a) no SPP"))
    assert re.search(r"ours +37\.00 ± 1\.41 +32\.00 \(1 of 2 seeds\)$", ours)
    below = lines[lines.index(ours) + 1 :]
    assert below[0].split() == ["paper", "35.99", "-"]
    assert below[1].split() == ["diff", "+1.01", "-"]
    assert re.search(r"ours +35\.00 ± 1\.41 +failed$", text, re.MULTILINE)


def test_many_columns_are_parted_into_blocks_that_fit(sweep):
    classes = {f"class{number}": f"class {number}" for number in range(21)}
    sweep.describe(columns=classes)
    for name in classes:
        sweep.run("no_spp", name, 0.36)
    lines = _terminal(read_table(sweep.directory)).splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines)
    assert all(f"class {number}" in words for number in range(21))
    assert "…" not in words


def test_a_very_narrow_terminal_still_gets_every_column(table):
    assert "Overfeat-7" in _terminal(table, width=40)


@pytest.mark.parametrize(
    ("gain", "mark", "word"), [(0.06, "✓", "confirmed"), (-0.04, "✗", "refuted"), (None, "?", "undecided")]
)
def test_a_claim_is_marked_and_worded(sweep, gain, mark, word):
    sweep.describe(claims=[CLAIM], columns={"zf5": "ZF-5"}, seeds=list(range(5)))
    for seed in range(5):
        sweep.run("no_spp", "zf5", 0.36, seed=seed)
        if gain is not None:
            sweep.run("spp_single", "zf5", 0.36 - gain + seed / 1000, seed=seed)
    table = read_table(sweep.directory)
    assert f"{mark} {word}: SPP beats no SPP (§3.1.2)" in _terminal(table)
    assert f"- {mark} {word}: SPP beats no SPP" in to_markdown(table)
    assert f"{word}: SPP beats no SPP" in to_latex(table)


def test_what_has_not_begun_is_one_line(sweep):
    claims = [{**CLAIM, "only": ["overfeat7"], "text": f"claim {number}"} for number in (1, 2)]
    sweep.describe(claims=claims)
    sweep.run("no_spp", "zf5", 0.36)
    lines = _terminal(read_table(sweep.directory)).splitlines()
    assert "not run yet: (b) SPP; Overfeat-7" in lines
    assert "- not tested: 2 (--format md says why)" in lines
    assert not any("missing" in line for line in lines)


def test_a_title_and_a_csv_name_the_data_that_were_really_used(sweep):
    sweep.describe(
        title="Table 9: detection on VOC 2007",
        data="VOC 2007",
        tested="VOC 2007",
        tested_in="own boxes",
        num_test=4952,
        paper_data=["VOC 2007"],
    )
    assert read_table(sweep.directory).heading.startswith(
        "Table 9: detection on own boxes in VOC 2007's layout"
    )
    sweep.run("no_spp", "zf5", 0.312, num_images=16)
    table = read_table(sweep.directory)
    data = "own boxes in VOC 2007's layout, 16 test images where VOC 2007 has 4952"
    assert {line["data"] for line in csv.DictReader(to_csv(table).splitlines())} == {data}
    text = " ".join(_terminal(table).split())
    assert f"Data: {data}. The paper's, in brackets: VOC 2007." in text
    assert "31.20 (35.99)" in text
    assert "diff" not in text


def test_only_a_terminal_gets_colour_codes(table):
    assert "\x1b[" not in _terminal(table)
    assert "\x1b[" in _terminal(table, is_coloured=True)


def _all_formats(table):
    forms = [to_markdown, to_csv, to_latex, _terminal, lambda table: json.dumps(to_json(table))]
    return [form(table) for form in forms]


def test_every_format_states_a_preset_that_is_not_the_papers_and_what_it_reduces(table):
    for text in _all_formats(table):
        words = " ".join(text.split())
        assert "preset mini: not the paper's scale" in words
        if not text.startswith("row,"):  # lines of a CSV are compared by a program
            assert "width 1/8 of the paper's filters" in words


def test_no_format_apologises_for_the_papers_own_preset(sweep):
    sweep.describe(preset="paper", reduced=[])
    for text in _all_formats(read_table(sweep.directory)):
        assert "not the paper's scale" not in text


def test_a_label_cannot_be_a_formula_in_a_spreadsheet(hostile):
    lines = list(csv.DictReader(to_csv(hostile).splitlines()))
    assert lines[0]["row"] == "'=cmd()|' /C calc'!A0"
    assert all(
        value[:1] not in ("=", "+", "-", "@") for line in lines for value in (line["row"], line["preset"])
    )


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", " =1"])
def test_what_starts_a_formula_is_quoted(text):
    assert escape.csv_text(text) == f"'{text}"


def test_a_label_cannot_be_html_or_part_a_markdown_cell(hostile):
    text = to_markdown(hostile)
    assert "<script>" not in text
    row = next(line for line in text.splitlines() if "script" in line)
    # Unescaped bars: label and two cells.
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_a_label_cannot_be_a_latex_command(hostile):
    text = to_latex(hostile)
    assert r"\textbackslash{}end\{tabular\}" in text
    assert text.count(r"\end{tabular}") == 1
    assert r"y\_1 \& 100\% \$x\$" in text


@pytest.mark.parametrize("label", ["[1ex] a", "*b"])
def test_a_label_is_not_read_as_the_argument_of_the_row_before(label):
    assert escape.latex(label) == f"{{}}{label}"


def test_a_label_cannot_move_the_cursor_or_be_markup_on_a_terminal(hostile):
    text = to_terminal(hostile, width=200, is_coloured=False)
    assert "\x1b" not in text
    words = " ".join(text.split())
    assert "[red]x[/red]" in words


def test_a_log_says_names_without_moving_the_cursor():
    name = "a\x1b[2J\u202eb\r"
    record = logging.LogRecord("sppnet", logging.INFO, "", 0, "%s: left out\nof 3", (name,), None)
    assert escape.CleanFormatter("%(message)s").format(record) == "a [2J b : left out\nof 3"
