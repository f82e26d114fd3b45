"""What is said while runs go on, where no terminal shows bars."""

from sppnet.experiment.sweep_view import SweepView


def test_a_line_says_how_long_it_will_take(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    view = SweepView(total=2, done=0, is_shown=True)
    for done in range(3):
        view.update("proposals own", "computing proposals", done, 14, "images")
        now += 20
    view.finish("proposals own", "done proposals own in 60 s", is_cell=False)
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [
        "[0/2] proposals own: computing proposals 2/14 images, about 0:04:00 left",
        "[0/2] done proposals own in 60 s",
    ]
