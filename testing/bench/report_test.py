#!/usr/bin/env python3
"""Tests what the benchmark concludes from samples: statistics, tables, figures to reach, the plot, processor times."""

import json
import os
import pathlib
import sys
import tempfile
import unittest
import xml.dom.minidom

sys.dont_write_bytecode = True
sys.path[:0] = (str(folder) for folder in pathlib.Path(__file__).absolute().parents[:2])
# pylint: disable=wrong-import-position
import figures
import load
import plot
import processor
import report
import results as results_module
import statistic
import targets

DEEP = figures.DEEP[0]
SINGLE = figures.SINGLE[0]
FSYNC = figures.FSYNC[0]
STREAM = figures.STREAMS[0]


def sample(iops, latency=100.0, client=0.4, server=0.2, kernel=0.1, requests=100000, busy=2.0):
    return {"iops": iops, "requests": requests, "p50": latency, "p99": 2 * latency, "p99.9": 3 * latency,
            "client": client, "server": server, "kernel": kernel, "fio": 0.5, "others": 0.1, "busy": busy}


def samples(*rounds, **fields):
    return [sample(iops, **fields) for iops in rounds]


def results_of(*cells):
    """Of (cell, place, {target: samples})."""
    results = results_module.Results({"machine": "one of a kind"})
    for cell, place, measured in cells:
        for name, values in measured.items():
            for value in values:
                results.add(cell, place, name, value)
    return results


class StatisticTest(unittest.TestCase):

    def test_spread_is_half_the_distance_between_quartiles(self):
        # Quartiles of 80 90 100 110 120: 85 and 115.
        self.assertAlmostEqual(statistic.spread(samples(120, 80, 100, 90, 110)), 0.15)

    def test_spread_of_few_rounds_is_that_of_the_extremes(self):
        self.assertAlmostEqual(statistic.spread(samples(90, 100, 120)), 0.15)
        self.assertEqual(statistic.spread(samples(100)), 0)

    def test_an_outlier_does_not_move_the_median(self):
        self.assertEqual(statistic.median(samples(100, 101, 5, 102, 99)), 100)

    def test_a_difference_in_every_round_beyond_the_noise_is_called(self):
        comparison = statistic.compare(samples(200, 210, 190, 205, 195), samples(100, 105, 95, 102, 98))
        self.assertTrue(comparison.called)
        self.assertAlmostEqual(comparison.ratio, 2)

    def test_a_difference_that_one_round_contradicts_is_not_called(self):
        self.assertFalse(statistic.compare(samples(200, 200, 200, 200, 90), samples(100, 100, 100, 100, 100)).called)

    def test_a_difference_smaller_than_the_spreads_is_not_called(self):
        self.assertFalse(statistic.compare(samples(105, 125, 85, 135, 95), samples(100, 120, 80, 130, 90)).called)

    def test_rounds_are_compared_with_each_other(self):
        # The machine was half as fast in one round, for both.
        comparison = statistic.compare(samples(120, 60, 120), samples(100, 50, 100))
        self.assertAlmostEqual(comparison.least, 1.2)
        self.assertAlmostEqual(comparison.most, 1.2)

    def test_nothing_to_compare_with_is_no_difference(self):
        self.assertFalse(statistic.compare(samples(1), samples(0)).called)

    def test_processor_time_is_of_all_rounds_together(self):
        rounds = [sample(1, client=0.5, requests=50000), sample(1, client=0.1, requests=250000)]
        self.assertAlmostEqual(statistic.seconds_per_100k(rounds, "client"), 0.2)


class ProcessorTest(unittest.TestCase):

    def test_reads_a_process_whose_name_has_brackets(self):
        line = "7 (a) b) S 2 7 7 0 -1 4 0 0 0 0 150 50 0 0 20 0 1 0 9"
        self.assertEqual(processor.parse_stat(line), (2, 200 / processor.TICKS))

    def test_waiting_is_not_busy(self):
        self.assertEqual(processor.parse_machine("cpu  10 1 20 1000 500 3 4 2 7 0\ncpu0 1\n"), 40 / processor.TICKS)

    def test_sees_its_own_work(self):
        before = processor.now([os.getpid()], [])
        while processor.between(before, processor.now([os.getpid()], [])).client < 0.1:
            pass
        self.assertGreater(processor.between(before, processor.now([os.getpid()], [])).busy, 0)

    def test_a_kernel_thread_that_ends_takes_nothing_away(self):
        before = processor.Times(1.0, 1.0, {2: 50.0, 3: 7.0}, 60.0)
        after = processor.Times(2.0, 1.5, {3: 7.5, 4: 0.25}, 64.0)
        self.assertEqual(processor.between(before, after), processor.Times(1.0, 0.5, 0.75, 4.0))

    def test_the_family_of_nobody_is_harmless(self):
        self.assertEqual(processor.family(2**22 + 1), [2**22 + 1])


class FioTest(unittest.TestCase):

    PERCENTILES = {"50.000000": 10000, "99.000000": 20000, "99.900000": 30000}
    DONE = {"total_ios": 500, "iops": 1000.0, "clat_ns": {"percentile": PERCENTILES}}
    NOTHING = {"total_ios": 0, "iops": 0.0, "clat_ns": {"min": 0}}

    def document(self, syncs, **sides):
        times = {key: 5 * value for key, value in self.PERCENTILES.items()}
        return "fio: a warning\n" + json.dumps({"jobs": [
            {"sync": {"total_ios": syncs, "lat_ns": {"percentile": times}}, **sides}]})

    def test_reads_what_fio_prints(self):
        expected = {"requests": 500, "iops": 1000.0, "p50": 10, "p99": 20, "p99.9": 30}
        self.assertEqual(load.parse_fio(self.document(0, read=self.NOTHING, write=self.DONE)), expected)
        self.assertEqual(load.parse_fio(self.document(0, read=self.DONE, write=self.NOTHING)), expected)
        self.assertEqual(load.parse_fio(json.dumps({"jobs": [{"mixed": self.DONE}]})), expected)

    def test_latency_with_fsync_is_that_of_the_fsync(self):
        self.assertEqual(load.parse_fio(self.document(500, read=self.NOTHING, write=self.DONE))["p50"], 50)

    def test_options_of_a_cell_reach_fio(self):
        command = load.fio_command(FSYNC, "/disk", 1, 64)
        self.assertIn("--fsync=1", command)
        self.assertIn("--rw=randwrite", command)


class PlanTest(unittest.TestCase):

    def test_each_target_is_measured_somewhere(self):
        for spec in targets.SPECS:
            self.assertTrue(any(targets.applies(spec, cell, place) for cell in load.CELLS
                                for place in (load.FILE, load.LOOP)), spec.name)

    def test_whoever_is_measured_has_something_to_compare_with(self):
        for cell in load.CELLS:
            for place in (load.FILE, load.LOOP):
                names = {spec.name: samples(1) for spec in targets.SPECS if targets.applies(spec, cell, place)}
                results = results_of((cell, place, names))
                self.assertIsNotNone(results.reference(cell, place), cell.name)
                for spec in results.specs(cell, place):
                    if spec.kind == "ours":
                        self.assertEqual(len(results.peers(spec, cell, place)), 2, (cell.name, place, spec.name))


class ReportTest(unittest.TestCase):

    def setUp(self):
        self.results = results_of(
            (DEEP, load.FILE, {"tcp": samples(80, 81, 82), "null": samples(100, 100, 101, server=0.0),
                               "nbdfuse-tcp": samples(10, 10, 10, client=4.0), "qemu-tcp": samples(16, 16, 16),
                               "qemu-unix": samples(300, 300, 300)}),
            (SINGLE, load.FILE, {"tcp": samples(30, 30, 30, latency=50), "null": samples(40, 40, 40, latency=25)}))

    def test_compares_with_peers_of_the_same_socket(self):
        text = report.whole(self.results)
        self.assertIn("nbdfuse-tcp 8.10×, qemu-tcp 5.06×", text)
        self.assertNotIn("qemu-unix 0.27×", text)

    def test_noise_is_marked(self):
        results = results_of((DEEP, load.FILE, {"tcp": samples(99, 102, 99), "null": samples(100, 100, 100)}))
        self.assertIn("0.99× ~", report.whole(results))

    def test_says_what_is_reached_and_what_is_not(self):
        verdicts = {(figure.what, figure.wanted): (figure.measured, figure.verdict)
                    for figure in figures.evaluate(self.results)}
        name = f"{DEEP.name}, mounted file, TCP"
        self.assertEqual(verdicts[(name, "≥ 0.8× null")], ("0.81×", figures.REACHED))
        self.assertEqual(verdicts[(name, "≥ 4× qemu-tcp")], ("5.06×", figures.REACHED))
        self.assertEqual(verdicts[(name, "≥ 6× nbdfuse-tcp")], ("8.10×", figures.REACHED))
        name = f"{SINGLE.name}, mounted file, TCP: median latency"
        self.assertEqual(verdicts[(name, "≤ 1.7× null")], ("2.00×", figures.MISSED))
        self.assertEqual(verdicts[(f"{DEEP.name}, loop, TCP", "≥ 0.85× null")], ("–", figures.NOT_MEASURED))

    def test_what_the_rounds_disagree_on_is_undecided(self):
        wanted = figures.iops_at_least(0.8)
        base = samples(100, 100, 100)
        self.assertEqual(figures.verdict(wanted, samples(90, 81, 95), base), figures.REACHED)
        self.assertEqual(figures.verdict(wanted, samples(90, 79, 95), base), figures.UNDECIDED)
        self.assertEqual(figures.verdict(wanted, samples(70, 79, 60), base), figures.MISSED)

    def test_processor_figures_are_sums_of_parts(self):
        figure = next(figure for figure in figures.evaluate(self.results)
                      if figure.what == f"{DEEP.name}, TCP: processor of the client")
        self.assertEqual((figure.measured, figure.verdict), ("1.00×", figures.REACHED))

    def test_limits_without_processor_times_have_a_row(self):
        results = results_of((STREAM, load.FILE, {"tcp": samples(80), "sockets-tcp": [{"iops": 100.0, "requests": 9}]}))
        self.assertIn("| sockets-tcp | 12 MiB/s ±0 % |", report.whole(results))

    def test_work_of_others_is_told(self):
        self.assertIn("had 5 % in the median measurement", report.whole(self.results))

    def test_samples_survive_the_file(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "samples.json"
            self.results.save(path)
            self.assertEqual(report.whole(results_module.Results.load(path)), report.whole(self.results))

    def test_an_unfinished_round_is_left_out(self):
        self.results.add(DEEP, load.FILE, "tcp", sample(1))
        self.results.add(DEEP, load.LOOP, "tcp", sample(1))
        self.results.drop_unfinished_round(3)
        self.assertEqual(len(self.results.of(DEEP, load.FILE)["tcp"]), 3)
        self.results.drop_unfinished_round(0)
        self.assertEqual(self.results.cells(), [])


class BehindTest(unittest.TestCase):

    def behind(self, mine, other):
        return list(figures.behind(results_of((DEEP, load.FILE, {"tcp": samples(*mine), "qemu-tcp": samples(*other)}))))

    def test_ahead(self):
        self.assertEqual(self.behind((20, 21, 22), (10, 10, 10)), [])

    def test_behind_in_every_round(self):
        self.assertEqual(len(self.behind((5, 5, 6), (10, 10, 10))), 1)

    def test_ahead_in_one_round(self):
        self.assertEqual(self.behind((5, 5, 11), (10, 10, 10)), [])


class PlotTest(unittest.TestCase):

    def test_is_well_formed_and_has_a_dot_for_each_target(self):
        results = results_of(
            (DEEP, load.FILE, {"tcp": samples(80, 90), "unix": samples(70, 80), "null": samples(100, 100)}),
            (FSYNC, load.LOOP, {"tcp-direct": samples(9), "nbdfuse-tcp-file": samples(7), "image": samples(10)}))
        document = xml.dom.minidom.parseString(plot.draw(results))
        titles = [title.firstChild.data for title in document.getElementsByTagName("title")]
        for label in ("tcp 0.85", "unix 0.75", "tcp-direct 0.90", "nbdfuse-tcp-file 0.70"):
            self.assertIn(label, titles)

    def test_more_is_further_right_and_nothing_leaves_the_picture(self):
        places = [plot.position(ratio) for ratio in (0.001, 0.1, 0.5, 1, 50)]
        self.assertEqual(places, sorted(places))
        self.assertGreaterEqual(places[0], plot.LEFT)
        self.assertLessEqual(places[-1], plot.WIDTH)


if __name__ == "__main__":
    unittest.main()
