"""Judging: what a model saw, in the context of the race, becomes readings. Pure: knows no model, no file, no SQL."""

from bibwatch.judging.judge import Judge, Judgement, judge, judge_race
from bibwatch.judging.race import Race
from bibwatch.judging.rules import Rules

__all__ = ["Judge", "Judgement", "Race", "Rules", "judge", "judge_race"]
