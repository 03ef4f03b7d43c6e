"""The planner: what a block claims along several digits at once."""

from itertools import product

from meristem.rewrite.equations import Equations
from meristem.rewrite.idioms import simplify
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.rules.growing import UNEQUAL, check, free_atoms
from tests.rules.view_carrier import Net, random_inputs, run


def grouped_queries():
    """Four heads of queries in two groups: rows of their weight are (group, head in it, coordinate)."""
    b = Net(0)
    x = b.dense(b.input(2, 3, 4), 4)

    def heads(count):
        return b.permute(b.reshape(b.dense(x, 2 * count), [2, 3, count, 2]), [0, 2, 1, 3])

    y = b.attention(heads(4), heads(2), heads(2), scale_role="scale")
    y = b.reshape(b.permute(y, [0, 2, 1, 3]), [2, 3, 8])
    b.output(b.dense(b.dense(y, 4), 2))
    return simplify(b.graph)


def test_copies_along_two_digits_agree() -> None:
    """Found by random graphs: new heads of new groups copied along one, with other new coordinates along
    the other, where the proof said both."""
    graph = grouped_queries()
    eq = Equations(graph).solve()
    atoms = free_atoms(eq)
    assert len(atoms) == 6
    inputs = random_inputs(graph, 1)
    before = run(graph, inputs)
    for chosen in product(("copy", "zero"), repeat=len(atoms)):
        strategies = {t: [s] for t, s in zip(atoms, chosen, strict=True)}
        solution = solve(eq, {t: 2 * t.size for t in atoms}, strategies=strategies)
        check(solution, edit_script(solution, split=UNEQUAL), [inputs], [before])
