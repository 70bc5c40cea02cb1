"""Rewards that need no model: shares of letters in an answer, as functions that `PythonReward` names."""


def vowels(_examples, answers):
    return [_share("aeiou", answer) for answer in answers]


def capitals(_examples, answers):
    return [_share("ABCDEFGHIJKLMNOPQRSTUVWXYZ", answer) for answer in answers]


def _share(wanted, answer):
    return sum(letter in wanted for letter in answer) / max(1, len(answer))
