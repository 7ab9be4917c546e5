"""The rotations that compare runs, by name, and what each brings: its rigs and measures, what weft is held against and what is
aimed at, and the rows and panels that are shown."""

import typing

# What a figure is held against where that is no one column: the better peer at its best, weft's own figure for one connection.
BEST, OWN = "best", "x1"
WEFT = "weft"


class Group(typing.NamedTuple):
    """A rotation. `usual` is weft's column that is held against each of `beside`; `rivals` are the columns, by how their names
    begin, of which the best is held against weft's best; `also` are pairs of columns that are held against each other too.

    `aims` has the least that is wanted of a ratio, by row and by what it is held against, which is None for a row that is a
    share itself, and by weft's column where each has its own; `limits` the most that is wanted of a row of weft's, in the row's unit.
    """

    name: str
    title: str
    mark: str
    rigs: dict
    catalogue: typing.Callable
    usual: str
    beside: tuple
    aims: dict
    rows: dict
    panels: dict
    rivals: tuple = ()
    also: tuple = ()
    limits: dict = {}
    traced: typing.Callable = dict

    def aim(self, row, ours, kind):
        return self.aims.get((row, kind, ours), self.aims.get((row, kind))) if ours.startswith(WEFT) else None


def by_name():
    """Every rotation; the first is the one that runs unless another is asked for."""
    # Each takes what is above from here.
    from . import relay_group, switch_group, tunnel_group

    return {group.name: group for group in (relay_group.GROUP, switch_group.GROUP, tunnel_group.GROUP)}
