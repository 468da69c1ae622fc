"""Ranges of whole numbers, as settings write them: `[2, 5]`."""


def is_range(value: object, low: int, high: int) -> bool:
    """Whether ``value`` is two whole numbers in order, both from ``low`` to ``high``.

    >>> is_range([2, 5], 1, 9), is_range([5, 2], 1, 9), is_range(3, 1, 9)
    (True, False, False)
    """
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(type(v) is int for v in value)
        and low <= value[0] <= value[1] <= high
    )
