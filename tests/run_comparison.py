"""What has to be the same of two runs of one workflow, however often one of them was interrupted."""


def answer(run):
    """Everything but what was spent."""
    return {key: value for key, value in run.results.items() if key != "spent"}


def same_answers(one, other, arrays):
    """Results, and the named arrays of each ensemble byte by byte."""
    assert answer(one) == answer(other)
    for ensemble, names in arrays.items():
        for name in names:
            assert one.read(ensemble, name).tobytes() == other.read(ensemble, name).tobytes(), (ensemble, name)
