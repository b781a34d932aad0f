"""The samples of a run: what was measured, and which of it belongs together. Saved as JSON."""

import json

import load
import statistic
import targets


def key_of(cell, place):
    return f"{cell.name}, {place}"


class Results:
    def __init__(self, about):
        self.about = about
        self.samples = {}  # key: {target: [sample of each round]}

    def add(self, cell, place, target, sample):
        self.samples.setdefault(key_of(cell, place), {}).setdefault(target, []).append(sample)

    def drop_unfinished_round(self, rounds):
        """What belongs to no whole round cannot be compared."""
        for of_cell in self.samples.values():
            for name, samples in of_cell.items():
                of_cell[name] = samples[:rounds]
        self.samples = {key: {name: samples for name, samples in of_cell.items() if samples}
                        for key, of_cell in self.samples.items()}

    def cells(self):
        """(cell, place) of all that was measured, in the order of load.CELLS."""
        return [(cell, place) for place in (load.FILE, load.LOOP) for cell in load.CELLS
                if self.samples.get(key_of(cell, place))]

    def of(self, cell, place):
        return self.samples.get(key_of(cell, place), {})

    def specs(self, cell, place):
        measured = self.of(cell, place)
        return [spec for spec in targets.SPECS if spec.name in measured]

    def reference(self, cell, place):
        """The name of what nothing of its kind can be faster than, or None."""
        name = "image" if cell.group == "fsync" else "null"
        return name if name in self.of(cell, place) else None

    def peers(self, spec, cell, place):
        """The names of those that a target of ours is compared with."""
        backend = "cache" if spec.backend == "direct" else spec.backend
        return [other.name for other in self.specs(cell, place)
                if other.kind == "peer" and other.socket == spec.socket and other.backend == backend]

    def best_peer(self, spec, cell, place):
        """Its name, or None."""
        samples = self.of(cell, place)
        return max(self.peers(spec, cell, place), key=lambda name: statistic.median(samples[name]), default=None)

    def save(self, path):
        path.write_text(json.dumps({"about": self.about, "samples": self.samples}, indent=1) + "\n")

    @staticmethod
    def load(path):
        document = json.loads(path.read_text())
        results = Results(document["about"])
        results.samples = document["samples"]
        return results
