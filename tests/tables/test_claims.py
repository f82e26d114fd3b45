import re

import numpy as np
import pytest

from sppnet.tables.results import read_table
from sppnet.tables.terminal import to_terminal

BETTER = {
    "id": "spp_beats_no_spp",
    "section": "3.1.2",
    "quote": "show considerable improvement",
    "text": "SPP beats no SPP",
    "kind": "better",
    "along": "rows",
    "better": "spp_single",
    "worse": "no_spp",
    "metric": "test/top1_error",
    "smallest": 0.5,
}
ONE = {**BETTER, "only": ["zf5"]}
LARGEST = {**BETTER, "id": "largest_gain", "kind": "largest_gain", "at": "overfeat7"}
LEARNED = {"train/steps": 100.0, "train/error": 0.1, "train/late_fall": 0.01}
NOISE = np.array([0.1, -0.2, 0.3, -0.1, -0.1, 0.2, -0.3, 0.1, 0.15, -0.15])
MAP = {"key": "test/map", "id": "map", "label": "mAP", "unit": "percent", "lower_is_better": False}
SECONDS = {
    "key": "timing/total_seconds",
    "id": "total",
    "label": "both (s)",
    "unit": "seconds",
    "lower_is_better": True,
}


def _judge(sweep, claims, errors, *, metrics=LEARNED, images=None, **changes):
    """Judge claims on top-1 errors in percent, by (row, column): one a seed, or one."""
    claims = claims if isinstance(claims, list) else [claims]
    errors = {place: np.atleast_1d(values) for place, values in errors.items()}
    seeds = list(range(max(map(len, errors.values()))))
    sweep.describe(**{"claims": claims, "seeds": seeds, **changes})
    for (row, column), values in errors.items():
        for seed, value in enumerate(values):
            left = {**metrics, "test/top1_error": float(value) / 100}
            sweep.run(row, column, left, seed=seed, images=images and images(row, seed, value))
    judged = read_table(sweep.directory).claims
    return judged[0] if len(claims) == 1 else judged


def _pairs(gain, num_pairs=10, of_no_spp=36.0, column="zf5"):
    """Errors of two rows whose difference is about `gain` in favour of SPP."""
    without = of_no_spp + np.arange(num_pairs) / 10
    return {("no_spp", column): without, ("spp_single", column): without - gain + NOISE[:num_pairs]}


def test_a_gain_of_ten_seeds_is_confirmed_and_said_with_interval_p_n_and_the_papers(sweep):
    claim = _judge(sweep, ONE, _pairs(1.0))
    assert (claim.verdict, claim.sentence) == ("confirmed", "SPP beats no SPP (§3.1.2)")
    # By scipy: mean 1.0, standard error 0.0627, t(9) = 2.262.
    assert claim.detail == "ZF-5 +1.00 [+0.86, +1.14] (paper +1.01); n 10 seeds, p < 0.001, signs < 0.001"


def test_a_loss_is_refuted(sweep):
    claim = _judge(sweep, ONE, _pairs(-1.0))
    assert claim.verdict == "refuted"
    assert claim.detail.startswith("ZF-5 -1.00 [-1.14, -0.86]")


def test_a_gain_that_can_only_be_smaller_than_what_matters_is_refuted_too(sweep):
    assert _judge(sweep, ONE, _pairs(0.02)).verdict == "refuted"
    assert _judge(sweep, {**ONE, "smallest": 0.1}, _pairs(0.02)).verdict == "undecided"


def test_a_small_gain_that_is_sure_is_a_gain(sweep):
    assert _judge(sweep, ONE, _pairs(0.3)).verdict == "confirmed"


def test_an_undecided_claim_says_what_it_could_have_seen_and_how_many_seeds_are_lacking(sweep):
    errors = _pairs(0.3, 6)
    errors["spp_single", "zf5"] = errors["no_spp", "zf5"] - [2, -1.5, 1, -1, 0.5, 0.8]
    claim = _judge(sweep, ONE, errors)
    assert claim.verdict == "undecided"
    found = re.search(r"could have seen (\d\.\d\d); (\d+) seeds more are needed: (.*)", claim.detail)
    # n = (1.96 + 0.84)^2 (sd / 0.5)^2 and a few for t, of sd 1.31.
    assert float(found[1]) == pytest.approx(
        (2.571 + 0.920) * np.std([2, -1.5, 1, -1, 0.5, 0.8], ddof=1) / 6**0.5, abs=0.02
    )
    assert 54 < int(found[2]) + 6 < 60
    assert found[3].startswith("sppnet experiment=table2 preset=mini seed=$(seq -s, 0 ")


def test_three_seeds_decide_nothing_and_five_do(sweep):
    claim = _judge(sweep, ONE, _pairs(1.0, 3))
    assert claim.verdict == "undecided"
    assert claim.detail.endswith(
        "2 seeds more are needed: sppnet experiment=table2 preset=mini seed=0,1,2,3,4"
    )
    assert _judge(sweep, ONE, _pairs(1.0, 5)).verdict == "confirmed"


def test_signs_have_to_agree_with_few_pairs(sweep):
    # t(4) says p = 0.046, but one of five is against it: 2 of 32 signs do as well.
    errors = {
        ("no_spp", "zf5"): [36.0] * 5,
        ("spp_single", "zf5"): np.array([36.0] * 5) - [3, 2, 2.5, 2, -0.1],
    }
    assert _judge(sweep, ONE, errors).verdict == "undecided"


def test_ties_are_no_win(sweep):
    same = {("no_spp", "zf5"): [36.0, 35, 37, 36, 36], ("spp_single", "zf5"): [36.0, 35, 37, 36, 36]}
    claim = _judge(sweep, ONE, same)
    assert claim.verdict == "undecided"
    assert claim.detail.startswith("ZF-5 0.00")


def test_it_is_confirmed_only_where_it_holds_everywhere_and_one_place_refutes_it(sweep):
    errors = {**_pairs(1.0), **_pairs(1.2, column="overfeat7")}
    claim = _judge(sweep, BETTER, errors)
    assert claim.verdict == "confirmed"
    assert "Overfeat-7 +1.20 [+1.06, +1.34]" in claim.detail
    assert _judge(sweep, BETTER, {**errors, **_pairs(-1.0, column="overfeat7")}).verdict == "refuted"


def test_an_unfinished_place_leaves_it_undecided_but_does_not_save_it(sweep):
    claim = _judge(sweep, BETTER, _pairs(1.0))
    assert claim.verdict == "undecided"
    assert "not finished: Overfeat-7" in claim.detail
    assert _judge(sweep, BETTER, _pairs(-1.0)).verdict == "refuted"


def test_a_cell_with_half_its_seeds_does_not_count(sweep):
    errors = _pairs(1.0)
    errors["spp_single", "zf5"] = errors["spp_single", "zf5"][:6]
    claim = _judge(sweep, ONE, errors)
    assert (claim.verdict, claim.detail) == ("undecided", "not finished: ZF-5")


def test_what_has_not_run_is_not_tested(sweep):
    sweep.describe(claims=[ONE])
    (claim,) = read_table(sweep.directory).claims
    assert (claim.verdict, claim.detail) == ("not tested", "not run")


def test_p_is_adjusted_for_the_number_of_claims(sweep):
    errors = _pairs(0.15, 6)  # p = 0.11 alone... of a claim whose smallest effect is none
    errors["spp_single", "zf5"] = errors["no_spp", "zf5"] - [0.1, 0.2, 0.3, 0.05, 0.4, 0.02]
    alone = _judge(sweep, {**ONE, "smallest": 0}, errors)
    assert alone.verdict == "confirmed"
    four = _judge(sweep, [{**ONE, "smallest": 0, "id": f"claim{number}"} for number in range(4)], errors)
    assert [claim.verdict for claim in four] == ["undecided"] * 4
    assert four[0].p == pytest.approx(min(1, 4 * alone.p))
    assert "(Holm over 4)" in four[0].detail


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({**LEARNED, "train/error": 0.52}, "52.0 % of the training images wrong (at most 25)"),
        ({**LEARNED, "train/late_fall": 0.08}, "the loss still fell by 8.0 % at the end (at most 5)"),
        ({"train/steps": 9.0}, "it is not known how well the network had learned"),
        (
            {**LEARNED, "finetuning/steps": 9.0, "finetuning/late_fall": 0.2},
            "the loss of fine-tuning still fell by 20.0 % at the end (at most 5)",
        ),
    ],
)
def test_networks_that_had_not_learned_to_the_end_decide_nothing(sweep, metrics, said):
    claim = _judge(sweep, ONE, _pairs(1.0), metrics=metrics)
    assert claim.verdict == "undecided"
    assert claim.detail.startswith(f"not trained to the end: (b) SPP · ZF-5: {said}; (a) no SPP · ZF-5:")


def test_the_bound_of_learning_is_the_tables(sweep):
    metrics = {**LEARNED, "train/error": 0.4}
    learned = {"error": 45, "fall": 5}
    assert _judge(sweep, ONE, _pairs(1.0), metrics=metrics, learned=learned).verdict == "confirmed"


def test_a_demonstration_tests_no_claim_and_shows_no_top_5_of_ten_classes(sweep):
    top5 = {**SECONDS, "key": "test/top5_error", "id": "top5", "label": "top-5 error", "unit": "percent"}
    top1 = {**top5, "key": "test/top1_error", "id": "top1", "label": "top-1 error (%)"}
    claim = _judge(sweep, ONE, _pairs(1.0), is_demonstration=True, metrics=LEARNED | {"test/top5_error": 0.1})
    assert (claim.verdict, claim.p) == ("not tested", None)
    sweep.describe(claims=[ONE], is_demonstration=True, metrics=[top1, top5])
    text = to_terminal(read_table(sweep.directory), width=80, is_coloured=False)
    assert "A demonstration:" in text
    assert "SPP beats no SPP" not in text
    assert "top-5" not in text


def _of_images(num_images=200, effect=0.0):
    """Wrong images of two networks: what their metric is when images are drawn anew."""
    generator = np.random.default_rng(0)
    weights = generator.poisson(1, (400, num_images)).astype(float)
    difficulty = (np.arange(num_images) + 0.5) / num_images

    def draw(row, seed, value):
        wrong = difficulty < value / 100
        drawn = (weights @ wrong) / weights.sum(axis=1)
        return {"replicates": {"test/top1_error": drawn.tolist()}, "hits": {}}

    return draw


def test_a_frozen_network_needs_no_seeds_its_pairs_are_the_images(sweep):
    errors = {("no_spp", "zf5"): [36.0], ("spp_single", "zf5"): [30.0]}
    claim = _judge(sweep, ONE, errors, metrics={}, images=_of_images())
    assert claim.verdict == "confirmed"
    low, high = claim.contrasts[0].estimate.interval
    # 6 % of 200 images, all on one side: +- 2 sqrt(0.06 * 0.94 / 200).
    assert (high - low) / 2 == pytest.approx(1.97 * (0.06 * 0.94 / 200) ** 0.5 * 100, rel=0.1)
    trained = _judge(sweep, ONE, errors, images=_of_images())
    assert trained.verdict == "undecided"
    assert "4 seeds more are needed" in trained.detail


def test_images_widen_the_interval_of_seeds(sweep):
    alone = _judge(sweep, ONE, _pairs(1.0)).contrasts[0].estimate
    both = _judge(sweep, ONE, _pairs(1.0), images=_of_images()).contrasts[0].estimate
    assert both.error > 2 * alone.error
    claim = _judge(sweep, ONE, _pairs(1.0), images=_of_images(100))
    assert claim.verdict == "undecided"
    assert claim.detail.endswith("no number of seeds would decide it on these test images")


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.05, "confirmed"), (0.6, "undecided"), (2.0, "refuted"), (-2.0, "refuted")]
)
def test_similar_is_no_further_apart(sweep, gain, verdict):
    assert _judge(sweep, {**ONE, "kind": "similar", "within": 0.6}, _pairs(gain)).verdict == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(-0.1, "confirmed"), (-0.5, "undecided"), (-1.0, "refuted")])
def test_not_worse_is_less_than_so_much_worse(sweep, gain, verdict):
    assert _judge(sweep, {**ONE, "kind": "not_worse", "by": 0.5}, _pairs(gain)).verdict == verdict


def test_a_chain_is_of_all_its_steps(sweep):
    rows = {"conv4": "conv4", "conv5": "conv5", "fc6": "fc6"}
    claim = {**ONE, "kind": "chain", "order": list(rows)}
    errors = {(row, "zf5"): 36 - 2 * step + NOISE * (step + 1) for step, row in enumerate(rows)}
    judged = _judge(sweep, claim, errors, rows=rows, paper={})
    assert judged.verdict == "confirmed"
    assert [one.label for one in judged.contrasts] == ["ZF-5, conv5 against conv4", "ZF-5, fc6 against conv5"]
    errors["fc6", "zf5"] = errors["fc6", "zf5"] + 4
    assert _judge(sweep, claim, errors, rows=rows, paper={}).verdict == "refuted"


def test_the_largest_gain_is_a_gain_and_larger_than_every_other(sweep):
    claim = _judge(sweep, LARGEST, {**_pairs(1.0), **_pairs(2.0, column="overfeat7")})
    assert claim.verdict == "undecided"  # noise of both is the same: how the difference spreads is not known
    errors = {**_pairs(1.0), **_pairs(2.0, column="overfeat7")}
    errors["spp_single", "overfeat7"] = errors["spp_single", "overfeat7"] + NOISE
    assert _judge(sweep, LARGEST, errors).verdict == "confirmed"
    errors["spp_single", "zf5"] = errors["spp_single", "zf5"] - 2
    assert _judge(sweep, LARGEST, errors).verdict == "refuted"


def test_flatter_is_a_smaller_range(sweep):
    claim = {**BETTER, "kind": "flatter", "smallest": 0.2}
    errors = {**_pairs(1.0), **_pairs(1.0, of_no_spp=40, column="overfeat7")}
    errors["spp_single", "overfeat7"] = errors["spp_single", "zf5"] + 1 + NOISE / 2
    judged = _judge(sweep, claim, errors)
    assert judged.verdict == "confirmed"
    assert judged.contrasts[0].estimate.mean == pytest.approx(3, abs=0.1)


def test_classes_are_counted(sweep):
    claim = {**ONE, "kind": "classes", "metric": "test/map", "more_than": 2, "paper": 3}
    seeds = list(range(6))
    sweep.describe(claims=[claim], seeds=seeds, metrics=[MAP], paper={}, per_class="test/ap/")
    names = ["cat", "cow", "dog", "bus"]
    for seed in seeds:
        for row, values in [
            ("no_spp", [0.1, 0.2, 0.3, 0.4]),
            ("spp_single", [0.2, 0.3, 0.4, 0.3 + seed % 2 / 4]),
        ]:
            of_class = {f"test/ap/{name}": value for name, value in zip(names, values, strict=True)}
            sweep.run(row, "zf5", {**LEARNED, "test/map": 0.3, **of_class}, seed=seed)
    (judged,) = read_table(sweep.directory).claims
    assert judged.contrasts[0].estimate.differences == (3, 4, 3, 4, 3, 4)
    assert judged.verdict == "confirmed"
    assert judged.detail.startswith("ZF-5 3.5 classes [2.9, 4.1] (paper 3)")


def test_a_count_of_parameters_needs_no_statistics(sweep):
    claim = {**ONE, "kind": "fewer", "metric": "num_parameters"}
    sweep.describe(claims=[claim])
    for row, count in [("no_spp", 1000), ("spp_single", 900)]:
        sweep.run(row, "zf5", {"test/top1_error": 0.3, "num_parameters": count})
    (judged,) = read_table(sweep.directory).claims
    assert (judged.verdict, judged.detail) == ("confirmed", "ZF-5 100 fewer")


def test_complexity_is_computed(sweep):
    claim = {**BETTER, "kind": "complexity", "windows": 2000, "warped": 227, "aspect": 4 / 3, "within": 0.05}
    sweep.describe(
        claims=[
            {**claim, "scales": [688], "paper": 160},
            {**claim, "scales": [480, 576, 688, 864, 1200], "paper": 24},
            {**claim, "scales": [688], "paper": 24},
        ]
    )
    one, five, wrong = read_table(sweep.directory).claims
    assert (one.verdict, one.detail) == ("confirmed", "computed 1/163.3 (paper 1/160)")
    assert (five.verdict, five.detail) == ("confirmed", "computed 1/24.0 (paper 1/24)")
    assert wrong.verdict == "refuted"


def test_a_number_of_the_papers_is_compared_with_at_its_own_scale_only(sweep):
    claim = {**ONE, "than": 37.5}
    errors = {("spp_single", "zf5"): 36 + NOISE}
    assert _judge(sweep, claim, errors, preset="paper").verdict == "confirmed"
    assert _judge(sweep, claim, errors).detail == "the number is of other data, or of another scale"


def test_what_cannot_be_tested_says_why(sweep):
    sweep.describe(claims=[{**ONE, "kind": "untested", "reason": "not built"}, ONE])
    sweep.run("no_spp", "zf5", 0.3)
    table = read_table(sweep.directory)
    assert (table.claims[0].verdict, table.claims[0].detail) == ("not tested", "not built")
    text = to_terminal(table, width=80, is_coloured=False)
    assert "- not tested: 1 (" in text


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
        {"kind": "chain"},
        {"kind": "similar"},
        {"kind": "classes"},
    ],
)
def test_a_slip_in_a_claim_leaves_the_table_readable(sweep, slip):
    claim = _judge(sweep, BETTER | slip, {**_pairs(1.0), **_pairs(1.0, column="overfeat7")})
    assert claim.verdict == "not tested"
    assert claim.detail.startswith("cannot be judged: ")


def test_seconds_are_compared_as_ratios_with_an_interval(sweep):
    claim = {**ONE, "metric": SECONDS["key"], "smallest": 2}
    paper = {SECONDS["key"]: {"no_spp": {"zf5": 14.46}, "spp_single": {"zf5": 0.142}}}
    sweep.describe(claims=[claim], metrics=[SECONDS], paper=paper)
    generator = np.random.default_rng(0)
    for row, value in [("no_spp", 20.0), ("spp_single", 1.25)]:
        drawn = (value * np.exp(generator.normal(0, 0.1, 400))).tolist()
        images = {"replicates": {SECONDS["key"]: drawn}, "hits": {}}
        sweep.run(row, "zf5", {SECONDS["key"]: value, "timing/num_images": 20.0}, images=images)
    (judged,) = read_table(sweep.directory).claims
    assert judged.verdict == "confirmed"
    # Logarithms spread by 0.1 sqrt(2), t(19) = 2.093: times e to the +-0.296.
    found = re.fullmatch(
        r"ZF-5 16.0 times as fast \[(.*), (.*)\] \(paper 101.8\); n 1 seed, p < 0.001", judged.detail
    )
    assert float(found[1]) == pytest.approx(16 / np.exp(0.296), rel=0.05)
    assert float(found[2]) == pytest.approx(16 * np.exp(0.296), rel=0.05)


def test_claims_of_no_effect_are_hardly_ever_decided():
    """Of families of five claims about nothing, some claim is decided in one of twenty at most."""
    from sppnet.tables.statistics import ALPHA, estimate, holm, sign_flip

    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        families = [estimate(generator.normal(0, 1, 6)) for _ in range(5)]
        p = holm([min(one.above(0), one.below(0)) for one in families])
        wrong += any(
            value <= ALPHA
            and min(sign_flip(one.differences), sign_flip([-d for d in one.differences])) <= ALPHA
            for value, one in zip(p, families, strict=True)
        )
    assert wrong / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
