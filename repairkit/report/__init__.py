"""Finished documents to pages that people read; pure: nothing is computed or looked up here."""

from repairkit.report.model_card import is_own_card, marked_card, model_card
from repairkit.report.page import render_patch, render_run
from repairkit.report.pictures import Picture, draw_picture
from repairkit.report.story import find_payers

__all__ = [
    "Picture",
    "draw_picture",
    "find_payers",
    "is_own_card",
    "marked_card",
    "model_card",
    "render_patch",
    "render_run",
]
