import pytest

from sppnet.tables.results import read_table

BETTER = {
    "id": "spp_beats_no_spp",
    "text": "SPP beats no SPP",
    "kind": "better",
    "along": "rows",
    "better": "spp_single",
    "worse": "no_spp",
    "metric": "test/top1_error",
}
LARGEST = {**BETTER, "id": "largest_gain", "kind": "largest_gain", "at": "overfeat7"}
ARCHITECTURES = {
    "zf5": "ZF-5",
    "convnet5": "Convnet*-5",
    "overfeat5": "Overfeat-5",
    "overfeat7": "Overfeat-7",
}
# Table 2 of the paper, top-1 error (%).
PAPER = {
    "no_spp": dict(zip(ARCHITECTURES, [35.99, 34.93, 34.13, 32.01], strict=True)),
    "spp_single": dict(zip(ARCHITECTURES, [34.98, 34.38, 32.87, 30.36], strict=True)),
}


def _judge(sweep, claim, without, with_spp, **changes):
    """Judge a claim on two architectures, from top-1 errors in percent (one per seed or one)."""
    seeds = changes.pop("seeds", [0])
    sweep.describe(claims=[claim], seeds=seeds, **changes)
    for row, errors in [("no_spp", without), ("spp_single", with_spp)]:
        for column, error in zip(["zf5", "overfeat7"], errors, strict=True):
            values = error if isinstance(error, list) else [error]
            for seed, value in zip(seeds, values, strict=False):
                if value is not None:
                    sweep.run(row, column, value / 100, seed=seed)
    return read_table(sweep.directory).claims[0]


def test_the_papers_own_numbers_bear_out_its_claims(sweep):
    sweep.describe(columns=ARCHITECTURES, paper={"test/top1_error": PAPER}, claims=[BETTER, LARGEST])
    for row, errors in PAPER.items():
        for column, error in errors.items():
            sweep.run(row, column, error / 100)
    better, largest = read_table(sweep.directory).claims
    assert better.holds
    assert better.detail.startswith(
        "holds in 4 of 4: ZF-5 -1.01 (paper -1.01), Convnet*-5 -0.55 (paper -0.55)"
    )
    assert largest.holds
    assert largest.detail.startswith("largest gain at Overfeat-7:")


def test_one_place_that_says_otherwise_refutes_a_claim(sweep):
    claim = _judge(sweep, BETTER, [36, 32], [35, 33])
    assert claim.holds is False
    assert claim.detail.startswith("holds in 1 of 2: ZF-5 -1.00 (paper -1.01), Overfeat-7 +1.00;")


def test_a_tie_is_not_a_win_even_through_rounding_noise(sweep):
    # 28.5 either way, yet 100 * 0.285 is 28.499999999999996 in binary.
    claim = _judge(sweep, BETTER, [[28.6, 28.4], [30, 30]], [[28.5, 28.5], [29, 29]], seeds=[0, 1])
    assert claim.holds is None
    assert "holds in 1 of 2, 1 tied: ZF-5 0.00" in claim.detail


def test_a_missing_cell_leaves_a_claim_open(sweep):
    claim = _judge(sweep, BETTER, [36, 32], [35, None])
    assert claim.holds is None
    assert "holds in 1 of 1: ZF-5 -1.00" in claim.detail
    assert "not finished: Overfeat-7" in claim.detail


def test_a_missing_cell_does_not_save_a_claim_that_is_already_refuted(sweep):
    assert _judge(sweep, BETTER, [36, 32], [37, None]).holds is False


def test_a_cell_with_half_its_seeds_does_not_count(sweep):
    claim = _judge(sweep, BETTER, [[36, 36], [32, 32]], [[35, 35], [31]], seeds=[0, 1])
    assert claim.holds is None


def test_nothing_finished_is_said_so(sweep):
    claim = _judge(sweep, BETTER, [None, None], [None, None])
    assert (claim.holds, claim.detail) == (None, "none of 2 comparisons is finished")


def test_with_two_seeds_differences_are_held_against_twice_their_standard_error(sweep):
    # ZF-5: 35 and 37 against 34 and 36, std sqrt(2) each: standard error sqrt(2/2 + 2/2) = 1.41, twice it
    # is more than the difference of 1. Overfeat-7: 32 against 31, no spread: 1 is more than 0.
    claim = _judge(sweep, BETTER, [[35, 37], [32, 32]], [[34, 36], [31, 31]], seeds=[0, 1])
    assert claim.holds
    assert "seed spread ±1.41 (largest standard error of a difference, 2 seeds)" in claim.detail
    assert claim.detail.endswith("1 of 2 differences exceed twice their own")


def test_a_clear_difference_the_wrong_way_is_counted_against_the_claim(sweep):
    claim = _judge(sweep, BETTER, [[35, 35], [32, 32]], [[36, 36], [31, 31]], seeds=[0, 1])
    assert claim.detail.endswith("2 of 2 differences exceed twice their own, 1 of them against the claim")


def test_with_one_seed_the_sampling_error_of_the_test_images_is_told(sweep):
    # Binomial: sqrt(0.36 * 0.64 / 400) = 2.4 points.
    claim = _judge(sweep, BETTER, [36, 36], [35, 35])
    assert claim.detail.endswith(
        "one seed: spread unknown; sampling error of 400 test images about ±2.40 points"
    )


def test_a_mean_average_precision_has_no_binomial_error(sweep):
    mean_ap = {"key": "test/map", "id": "map", "label": "mAP", "unit": "percent", "lower_is_better": False}
    sweep.describe(metrics=[mean_ap], paper={}, claims=[{**BETTER, "metric": "test/map", "only": ["zf5"]}])
    sweep.run("no_spp", "zf5", {"test/map": 0.5})
    sweep.run("spp_single", "zf5", {"test/map": 0.6})
    claim = read_table(sweep.directory).claims[0]
    assert (claim.holds, claim.detail) == (True, "holds in 1 of 1: ZF-5 +10.00; one seed: spread unknown")


def test_a_claim_along_columns_compares_two_columns_in_every_row(sweep):
    claim = {**BETTER, "along": "columns", "better": "overfeat7", "worse": "zf5"}
    judged = _judge(sweep, claim, [36, 32], [35, 36])
    assert judged.holds is False
    assert judged.detail.startswith("holds in 1 of 2: (a) no SPP -4.00, (b) SPP +1.00")


def test_only_restricts_the_places(sweep):
    assert _judge(sweep, {**BETTER, "only": ["zf5"]}, [36, 32], [35, 33]).holds is True


@pytest.mark.parametrize(
    ("with_spp", "holds", "verdict"),
    [
        ([35, 30], True, "largest gain at Overfeat-7:"),
        ([33, 31], False, "largest gain at ZF-5:"),
        ([35, 31], False, "largest gain at ZF-5 and Overfeat-7:"),
        ([37, 32.5], False, "no gain:"),
        ([None, 30], None, "largest gain at Overfeat-7:"),
        ([35, None], None, "largest gain at ZF-5:"),
    ],
)
def test_the_largest_gain_is_a_gain_and_larger_than_every_other(sweep, with_spp, holds, verdict):
    claim = _judge(sweep, LARGEST, [36, 32], with_spp)
    assert claim.holds is holds
    assert claim.detail.startswith(verdict)


@pytest.mark.parametrize(
    "slip",
    [
        {"kind": "prettier"},
        {"metric": "test/speed"},
        {"worse": "spp"},
        {"along": "diagonals"},
        {"only": ["vgg"]},
        {"kind": "largest_gain"},
        {"kind": "largest_gain", "at": "vgg"},
    ],
)
def test_a_slip_in_a_claim_leaves_the_table_readable(sweep, slip):
    claim = _judge(sweep, BETTER | slip, [36, 32], [35, 31])
    assert claim.holds is None
    assert claim.detail.startswith("cannot be judged: ")


def test_seconds_are_compared_by_how_many_times_as_fast(sweep):
    seconds = {
        "key": "timing/total_seconds",
        "id": "total",
        "label": "both (s)",
        "unit": "seconds",
        "lower_is_better": True,
    }
    claim = {**BETTER, "metric": seconds["key"], "only": ["zf5"]}
    paper = {seconds["key"]: {"no_spp": {"zf5": 14.46}, "spp_single": {"zf5": 0.142}}}
    sweep.describe(claims=[claim], metrics=[seconds], paper=paper)
    for row, value in [("no_spp", 20.0), ("spp_single", 1.25)]:
        sweep.run(row, "zf5", {seconds["key"]: value})
    (judged,) = read_table(sweep.directory).claims
    assert judged.holds
    assert judged.detail.startswith("holds in 1 of 1: ZF-5 16.0 times as fast (paper 101.8);")
