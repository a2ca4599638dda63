"""Judging: what a model saw, in the context of the race, becomes readings. Pure: knows no model, no file, no SQL."""

from bibwatch.judging.form import LearnedForm
from bibwatch.judging.judge import Judge, Judgement, clear_numbers, judge, judge_race
from bibwatch.judging.race import Race
from bibwatch.judging.rules import Rules
from bibwatch.judging.start_list import Match, StartList

__all__ = [
    "Judge",
    "Judgement",
    "LearnedForm",
    "Match",
    "Race",
    "Rules",
    "StartList",
    "clear_numbers",
    "judge",
    "judge_race",
]
