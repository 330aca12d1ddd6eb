"""Less on disk: a run that is done without what only going on needs."""

from pathlib import Path

from mnistlab import files
from mnistlab.comparison import nets, saved, workdirs
from mnistlab.comparison.listing import bytes_in
from mnistlab.errors import UserError, file_errors
from mnistlab.training import checkpoint

DOOMED = ".pruned"  # what training/ is called from when it counts as gone until it is


def prune(folder: Path) -> int:
    """Removes checkpoints/<variant>/training of a run that is done, and returns how many bytes that was.

    The run is still read, compared and predicted from; with more seeds or variants it cannot go on.

    Raises:
      UserError: no run that is whole and done, weights that cannot be read, a folder behind a link or in use.
    """
    saved.read_run(folder)
    with workdirs.locked(folder):
        saved.read_run(folder)  # of that moment
        found = [place for place in files.entries(folder / "checkpoints") if (place / "training").exists()]
        for place in found:
            for path in (place.parent, place, place / "training"):
                if path.is_symlink():
                    raise UserError(f"{path} is a link to {path.resolve()}; prune deletes nothing behind a link")
            for kind in nets.KINDS:  # they could be made again from what is to go
                checkpoint.restore_once(place / kind, None, workdirs.belonging(folder, place.name, kind))
        num_bytes = 0
        left = filter(Path.is_dir, files.entries(folder / "checkpoints"))  # perhaps by a prune that was killed
        for place in (*found, *left):
            with file_errors(f"cannot prune {place}", "let it be written, and prune again"):
                if (place / "training").exists():
                    files.remove(place / DOOMED)  # of a prune that was killed, before training began anew
                    (place / "training").rename(place / DOOMED)
                num_bytes += bytes_in(place / DOOMED)
                files.remove(place / DOOMED)
        return num_bytes
