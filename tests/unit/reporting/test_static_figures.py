"""Figures in files: signed within their width, and the same files at every run."""

from wavetune.reporting.static_figures import new_figure, save, sign


def signed(command):
    figure = new_figure((5.0, 3.0))
    figure.subplots().plot([0, 1])
    sign(figure, {"Seeds": "0"}, command)
    return figure


def test_a_long_command_at_the_foot_is_broken_into_lines_that_fit():
    figure = signed("wavetune plan sflllm" + " --set method.planner.time_limit_s=0.2" * 9)
    figure.draw_without_rendering()
    (foot,) = figure.texts
    assert foot.get_window_extent().width < figure.bbox.width
    assert foot.get_window_extent().y1 < figure.axes[0].xaxis.get_tightbbox().y0  # and below the axis


def test_a_figure_is_the_same_file_at_every_run(tmp_path):
    for name in ("a", "b"):
        save(signed("wavetune plan sflllm"), tmp_path / name)
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
