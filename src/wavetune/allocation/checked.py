"""A last look at a plan before it is shown or used."""

from __future__ import annotations

from wavetune.allocation.feasibility import violations
from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import taking_part
from wavetune.errors import PlanError


def checked(problem: Problem, plan: Plan) -> Plan:
    """The plan itself, whatever planner made it, if it keeps every constraint of the problem.

    Raises: PlanError naming the first constraint that it breaks.
    """
    if plan.status == "ok" and (broken := violations(*taking_part(problem, plan))):
        raise PlanError(
            f"the plan breaks a constraint ({broken[0]}): a fault of wavetune's planner, not of the input; please "
            "report it with the instance"
        )
    return plan
