"""The results as Markdown: a table for each place, what each peer is behind, and the figures to reach."""

import figures
import statistic

NONE = "–"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def amount(cell, iops):
    """Small requests are counted, large ones weighed."""
    if cell.block >= 128:
        return f"{iops * cell.block / 1024:,.0f} MiB/s"
    return f"{iops:,.0f}/s"


def ratio(comparison):
    return f"{comparison.ratio:.2f}×" + ("" if comparison.called else " ~")


def microseconds(samples, key):
    return f"{statistic.median(samples, key):,.0f}" if all(key in sample for sample in samples) else NONE


def processor_time(samples, key):
    return f"{statistic.seconds_per_100k(samples, key):.2f}" if all(key in sample for sample in samples) else NONE


def cell_rows(results, cell, place):
    measured = results.of(cell, place)
    reference = results.reference(cell, place)
    for spec in results.specs(cell, place):
        samples = measured[spec.name]
        row = [spec.name, f"{amount(cell, statistic.median(samples))} ±{100 * statistic.spread(samples):.0f} %"]
        row.append(ratio(statistic.compare(samples, measured[reference])) if reference and spec.name != reference
                   else NONE)
        peers = results.peers(spec, cell, place) if spec.kind == "ours" else []
        row.append(", ".join(f"{name} {ratio(statistic.compare(samples, measured[name]))}" for name in peers) or NONE)
        row.append(" / ".join(microseconds(samples, key) for key in ("p50", "p99", "p99.9")))
        row.append(" + ".join(processor_time(samples, key) for key in ("client", "server", "kernel")))
        yield row


def all_cells(results):
    parts = []
    header = ["Target", "Median ± spread", "To the ceiling", "To each peer", "p50 / p99 / p99.9, µs",
              "CPU s per 100,000: client + server + kernel threads"]
    for cell, place in results.cells():
        reference = results.reference(cell, place)
        above = f"### {cell.name}, {'mounted file' if place == 'file' else 'loop device'}\n"
        note = f"\nThe ceiling is `{reference}`.\n" if reference == "image" else ""
        parts.append(f"{above}{note}\n{table(header, cell_rows(results, cell, place))}\n")
    return "\n".join(parts)


def short(results, name, cell, place):
    samples = results.of(cell, place).get(name)
    return amount(cell, statistic.median(samples)) if samples else NONE


def overview(results, place):
    """One line for each cell: ours, the best peer of each socket, the ceiling."""
    rows = []
    for cell, where in results.cells():
        if where != place:
            continue
        ours = {socket: f"{socket}-direct" if cell.group == "fsync" else socket for socket in ("tcp", "unix")}
        reference = results.reference(cell, place)
        row = [cell.name, short(results, reference, cell, place) if reference else NONE]
        for name in ours.values():
            spec = next((spec for spec in results.specs(cell, place) if spec.name == name), None)
            peer = results.best_peer(spec, cell, place) if spec else None
            measured = results.of(cell, place)
            row.append(short(results, name, cell, place))
            row.append(ratio(statistic.compare(measured[name], measured[reference])) if spec and reference else NONE)
            row.append(f"{ratio(statistic.compare(measured[name], measured[peer]))} {peer}" if peer else NONE)
        rows.append(row)
    return table(["Cell", "Ceiling", "TCP", "to the ceiling", "to the best peer", "Unix", "to the ceiling",
                  "to the best peer"], rows)


def reached(results):
    rows = []
    for figure in figures.evaluate(results):
        rows.append([figure.what, figure.wanted, figure.measured, figure.verdict])
    return table(["Figure", "Wanted", "Measured", ""], rows)


def disturbance(results):
    """How much of the machine's busy time belonged to nothing of this run: (median, most), or None."""
    parts = [sample["others"] / sample["busy"] for of_cell in results.samples.values()
             for samples in of_cell.values() for sample in samples if sample.get("busy")]
    if not parts:
        return None
    parts.sort()
    return parts[len(parts) // 2], parts[len(parts) * 9 // 10]


def about(results):
    lines = [f"* {name}: {value}" for name, value in results.about.items()]
    others = disturbance(results)
    if others:
        lines.append("* of the busy processor time, programs that do not belong to the run had "
                     f"{100 * others[0]:.0f} % in the median measurement, {100 * others[1]:.0f} % and more in one of "
                     "ten")
    return "\n".join(lines)


def whole(results):
    parts = ["## The run\n", about(results), "\nA ratio with ~ is no difference: it is inside the noise.\n"]
    for place, title in (("file", "Mounted file"), ("loop", "Loop device")):
        if any(where == place for _, where in results.cells()):
            parts += [f"## {title}\n", overview(results, place), ""]
    parts += ["## Figures to reach\n", reached(results), "\n## All cells\n", all_cells(results)]
    return "\n".join(parts)
