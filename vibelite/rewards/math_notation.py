r"""Ways of writing the same thing: marks that mean nothing, Unicode signs, units, lists.

Text to text; no value is computed. Everything is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-",
        "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u200b": "", "\ufeff": "",
        "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "÷": "/", "⁄": "/",
        "∕": "/", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
        "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "±": "\\pm ", "∓": "\\mp ",
        "°": "^\\circ ", "≈": "\\approx ", "∈": "\\in ", "θ": "\\theta ", "α": "\\alpha ",
        "β": "\\beta ", "ℝ": "\\mathbb{R}", "⟨": "\\langle ", "⟩": "\\rangle ",
        "∶": ":",
    }
)  # fmt: skip
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋"
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUBSCRIPT_RUN = re.compile(f"[{_SUBSCRIPTS}]+")
_FROM_SUPERSCRIPT = str.maketrans(_SUPERSCRIPTS, "0123456789+-n")
_FROM_SUBSCRIPT = str.maketrans(_SUBSCRIPTS, "0123456789+-")
MAX_NESTED_ROOTS = 4
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\{[^{}]*\})|([0-9]+|[A-Za-z]))")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_DROPPED = re.compile(
    r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|Biggl?|Biggr|middle)(?![A-Za-z])\.?"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|[lL]arge|LARGE|small|bf|rm|it|checkmark)(?![A-Za-z])"
    r"|\\(?:[hv]?phantom|tag\*?)\s*\{[^{}]*\}"
    r"|\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}"
    r"|(?<!\\)\\!|\*\*|\$"
)
# "11,\\! 111": the space is taken back, so that the comma is no separator of a list.
_TIGHT_COMMA = re.compile(r"(?<=[0-9])(?:,|\{,\})\s*\\!\s*(?=[0-9]{3}(?![0-9]))")
# "\\mathbb Z", as TeX reads it.
_UNBRACED = re.compile(
    r"\\(mathbb|mathcal|mathrm|mathbf|mathit|mathsf|boldsymbol|text|textbf)\s+([A-Za-z])(?![A-Za-z])"
)
# The constants, set upright.
_CONSTANT = re.compile(r"\\(?:mathrm|operatorname|mathsf|mathit)\s*\{\s*([ei])\s*\}")
# What follows from an equation or an inequality is the answer.
_ARROW = re.compile(r"\\(?:implies|Rightarrow|Longrightarrow|therefore)(?![A-Za-z])")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|leq|geq|in)(?![A-Za-z])")
# Not the second half of a line break in a matrix.
_SPACE = re.compile(
    r"(?<!\\)\\[,;: ]|\\(?:quad|qquad|enspace|thinspace|hspace\{[^{}]*\})(?![A-Za-z])|~"
)
_STYLE = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|textit|textbf|textrm|mathsf|emph|mathrm|operatorname|mathtt"
    r"|texttt|textsf|textnormal|mbox|hbox|underline|num)"
    r"\s*\{([^{}]*)\}"
)
_WHOLE_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_NUMBER_IN_TEXT = re.compile(r"\\text\s*\{\s*([0-9]+)\s*\}")
# "\\textbf{(C)}\\ 204": the label that an option had.
_LABEL = re.compile(r"^(?:\\text\s*\{\s*)?\(([A-E])\)(?:\s*\})?\s+(?=\S)")
# An array or a display of one line and one column.
_ONE_LINE = re.compile(
    r"\\begin\s*\{(aligned|align\*?|gathered|split|array)\}\s*(?:\{[lcr|]*\})?(.*)\\end\s*\{\1\}",
    re.S,
)
_LINE_SKIP = re.compile(r"\\\\\s*\[[0-9.]+\s*(?:pt|em|ex|mm|cm)\]")
_ONE_LETTER_INDEX = re.compile(r"_\{([A-Za-z0-9])\}")
_LEADING_TEXT = re.compile(
    r"^\\text\s*\{[^{}]*(?:[:=]|\b(?:is|are|be|equals))\s*\}|^(?:final\s+)?answer\s*:\s*|^=(?!=)",
    re.I,
)
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:(?:,|\{,\}|\s)[0-9]{3})+(?:\.[0-9]+)?")
_NAMED_THOUSANDS = re.compile(rf"([A-Za-z]\s*=\s*)({_THOUSANDS.pattern})")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degrees?\b)$")
_ANGLE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}")
_BRACE_NAMES = re.compile(r"\\([lr])brace(?![A-Za-z])\s?")
_EMPTY_SET = re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent)\s*\}|\bpercent)$")
# Units by what they measure: two of one row that differ are two answers. Single letters only count
# inside \text{}: "5m" may be a product.
_UNITS = {
    name: (measure, canonical)
    for measure, names in {
        "length": "mm millimeter millimetre|cm centimeter centimetre|dm|m meter metre|km kilometer "
        "kilometre|in inch inche|ft foot feet|yd yard|mi mile",
        "time": "s sec second|min minute|h hr hour|day|week|month|year",
        "mass": "mg|g gram|kg kilogram|lb pound|oz ounce|ton",
        "money": "dollar usd|cent",
        "angle": "degree|rad radian",
        "volume": "ml|l liter litre|gallon",
        "": "unit|mph|people|student|way|time|apple|point|hz|mol|pa|n|j|w|v|k",
    }.items()
    for canonical, *others in (row.split() for row in names.split("|"))
    for name in (canonical, *others)
}
# Exact sizes of units in the first of their row.
_SIZES = {
    "mm": "1", "cm": "10", "dm": "100", "m": "1000", "km": "1000000", "in": "25.4", "ft": "304.8",
    "yd": "914.4", "mi": "1609344", "s": "1", "min": "60", "h": "3600", "day": "86400",
    "week": "604800", "mg": "1", "g": "1000", "kg": "1000000", "dollar": "100", "cent": "1",
    "ml": "1", "l": "1000",
}  # fmt: skip
_WORDS = "|".join(sorted((f"{name}s?" for name in _UNITS if len(name) > 1), key=len, reverse=True))
_UNIT_POWER = r"(?:\s*\^\s*\{?\s*-?[0-9]\s*\}?)?"
_BARE_UNIT = re.compile(
    rf"(?<=[0-9}}])\s*((?:(?:square|sq|cubic)\s)?(?:{_WORDS})(?:\s?(?:/|per)\s?(?:{_WORDS}))?)"
    rf"{_UNIT_POWER}$",
    re.I,
)
_TEXT_UNIT = re.compile(
    rf"\s*(?:\\text\s*\{{\s*\(?([A-Za-z./ ]+?)\)?\s*\}}{_UNIT_POWER}"
    r"|\\frac\s*\{\s*\\text\s*\{([A-Za-z ]+)\}\s*\}\s*\{\s*\\text\s*\{[A-Za-z ]+\}[^{}]{0,4}\})$"
)
_CURRENCY = re.compile(r"^(?:\\?[$€£]|\\text\s*\{\s*\\?[$€£]\s*\})\s*(?:\\[,!;: ])?\s*(?=[0-9.])")
_JOINER = re.compile(r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\(?:lor|land|vee)\b")
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Notation:
    """An answer in plain form. `unit` is what was cut off its end, such as "cm^2"; `text` = it was
    written as words, in \\text{} or a font.
    """

    body: str
    unit: str = ""
    is_percent: bool = False
    is_text: bool = False


def read_notation(answer: str) -> Notation:
    r"""The answer without marks that mean nothing, its unit apart.

    "$1{,}037.$" -> 1037; "90^\circ" -> 90, unit degree; "5\text{ cm}" -> 5, unit cm;
    "\dfrac12" -> \frac12; "√6" -> \sqrt{6}; "50\%" -> 50, percent.
    """
    text = " ".join(to_ascii(answer).split())
    text = _UNBRACED.sub(r"\\\1{\2}", _TIGHT_COMMA.sub(",", _CURRENCY.sub("", text.strip())))
    text = _conclusion(_CONSTANT.sub(r" \1", text))
    # Thousands before spacing goes: "1\,037" and "1 037" are one number, "1 2" is not twelve.
    text = _SPACE.sub(" ", _DROPPED.sub("", f"{text} ")).strip()
    text = re.sub(r"(?<![A-Za-z])\{:\}", ":", text)
    text = _trim(_LEADING_TEXT.sub("", text))
    if (match := _ONE_LINE.fullmatch(text)) and "\\\\" not in match[2]:
        text = match[2].replace("&", "").strip()
    if _THOUSANDS.fullmatch(text):
        return Notation(re.sub(r"[\s,{}]", "", text))
    if match := _NAMED_THOUSANDS.fullmatch(text):
        text = match[1] + re.sub(r"[\s,{}]", "", match[2])
    is_text = False
    while match := _WHOLE_TEXT.fullmatch(text) or _STYLE.fullmatch(text):
        text, is_text = _trim(_LEADING_TEXT.sub("", match[1])), True
    text = _STYLE.sub(r"\\text{\1}" if not is_text else r"\1", text)
    text = _LABEL.sub("", _NUMBER_IN_TEXT.sub(r"\1", text))
    text = _ONE_LETTER_INDEX.sub(r"_\1", _LINE_SKIP.sub(r"\\\\", text))
    text, unit, is_percent = _split_unit(text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\lg(?![A-Za-z])", r"\\log_{10}", text)
    text = re.sub(r"\\log\s*_\s*(?:e(?![A-Za-z])|\{\s*e\s*\})", r"\\ln ", text)
    text = _ANGLE.sub(r"(\\frac{\1 \\pi}{180})", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _BRACE_NAMES.sub(lambda m: "\\{" if m[1] == "l" else "\\}", text)
    text = _EMPTY_SET.sub(r"\\emptyset", text)
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"[\s,{}]", "", text)
    is_text = is_text and re.search("[A-Za-z]", text) is not None
    return Notation(_without_braces(text), unit, is_percent, is_text)


def _conclusion(text: str) -> str:
    r""" "x+1 = 4 \implies x = 3" -> "x = 3"; other arrows go."""
    parts = [part.strip() for part in _ARROW.split(text)]
    is_chain = len(parts) > 1 and all(map(_RELATION.search, parts))
    return parts[-1] if is_chain else " ".join(parts).strip()


def to_ascii(text: str) -> str:
    """Unicode signs as LaTeX, compatibility forms as their plain letters.

    Digits of other scripts stay what they are: no answer in them is accepted.
    """
    if text.isascii():
        return text
    for _ in range(MAX_NESTED_ROOTS):
        text = _ROOT.sub(
            lambda m: "\\sqrt{" + (m[1] or (m[2] or "").strip("{}") or m[3]) + "}", text
        )
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]) + " ", text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + m[0].translate(_FROM_SUPERSCRIPT) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: "_{" + m[0].translate(_FROM_SUBSCRIPT) + "}", text)
    return unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)


def split_list(text: str) -> tuple[str, list[str], str]:
    r"""(opening, items, closing) of a set, tuple, interval or bare list; one item for all else.

    "(1, 2]" -> ("(", ["1", "2"], "]"); "\{1,2\}" -> ("{", ["1", "2"], "}");
    "1, 2" -> ("", ["1", "2"], ""); "x+1" -> ("", ["x+1"], "").
    """
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}") and _encloses(text, 2):
        return "{", split_top(text[2:-2]), "}"
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        return "(", split_top(text[7:-7]), ")"
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text, 1):
        items = split_top(text[1:-1])
        if len(items) > 1:
            return text[0], items, text[-1]
        if text[0] == "(" and text[-1] == ")" and items:
            return "", items, ""
    return "", split_top(text), ""


def split_top(text: str) -> list[str]:
    """The parts between commas, semicolons and words such as "or" outside all brackets."""
    text = _JOINER.sub(",", text)
    parts, start, depth = [], 0, 0
    for i, character in enumerate(text):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character in ",;" and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def split_equation(text: str) -> list[str]:
    """The sides of an equation or of a chain of them; "=" inside brackets divides nothing."""
    parts, start, depth = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "=" and depth == 0 and text[i - 1 : i] not in ("<", ">", "!", ":"):
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _encloses(text: str, width: int) -> bool:
    """The first bracket, `width` characters wide, is closed by the last one."""
    depth = 0
    for i, character in enumerate(text[width - 1 :], width - 1):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return i == len(text) - 1
    return False


def _split_unit(text: str) -> tuple[str, str, bool]:
    """The text without unit, the unit, and whether it is a percentage."""
    if match := _PERCENT.search(text):
        return text[: match.start()].rstrip(), "", True
    if not _TRIGONOMETRY.search(text) and (match := _DEGREES.search(text)):
        return text[: match.start()].rstrip(), "degree", False
    match = _TEXT_UNIT.search(text) or _BARE_UNIT.search(text)
    if match is None or not text[: match.start()].strip():
        return text, "", False
    unit = match[1] or match[match.lastindex or 1]
    power = match[0].partition("^")[1:]
    return text[: match.start()].rstrip(), unit.lower() + "".join(power), False


def units_differ(first: str, second: str) -> bool:
    """Both are units of one quantity, such as cm and m, but not the same; unknown ones never
    differ.
    """
    if not first or not second:
        return False
    ours, theirs = _measures(first), _measures(second)
    return any(measure in theirs and theirs[measure] != unit for measure, unit in ours.items())


def unit_size(unit: str) -> Fraction | None:
    """How many of its measure's smallest known unit it is; None for powers, ratios and others."""
    name = unit.strip()
    known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
    return Fraction(_SIZES[known[1]]) if known and known[1] in _SIZES else None


def _measures(unit: str) -> dict[str, str]:
    words = re.findall(r"[a-z]+", unit)
    known = [_UNITS.get(word) or _UNITS.get(word.removesuffix("s")) for word in words]
    return {measure: name for measure, name in filter(None, known) if measure}


def _trim(text: str) -> str:
    return text.strip().rstrip(".,;:").strip() if not text.endswith("\\,") else text.strip()


def _without_braces(text: str) -> str:
    """ "{204}" -> "204"; "{1}+{2}" stays."""
    while text.startswith("{") and text.endswith("}") and _encloses(text, 1):
        text = text[1:-1].strip()
    return text
