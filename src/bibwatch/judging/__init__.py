"""Judging: what a model saw, in the context of the race, becomes readings. Pure: knows no model, no file, no SQL."""

from bibwatch.judging.judge import Judge, Judgement, judge
from bibwatch.judging.race import Race
from bibwatch.judging.rules import Rules
from bibwatch.judging.start_list import Match, StartList

__all__ = ["Judge", "Judgement", "Match", "Race", "Rules", "StartList", "judge"]
