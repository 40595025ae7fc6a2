"""The words of instructions: how each kind of edit can be asked for, and what its values are called."""

PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "recolour": (
        (
            "make {it} {colour}",
            "turn {it} {colour}",
            "paint {it} {colour}",
            "colour {it} {colour}",
            "color {it} {colour}",
            "recolour {it} {colour}",
            "change {it} to {colour}",
            "change the colour of {it} to {colour}",
            "change the color of {it} to {colour}",
            "{it} should be {colour}",
            "i want {it} to be {colour}",
            "make the colour of {it} {colour}",
        ),
        ("turn the colour of {it} to {colour}", "paint {it} in {colour}", "{it} in {colour}"),
    ),
    "replace": (
        (
            "replace {it} with {a}",
            "turn {it} into {a}",
            "change {it} into {a}",
            "change {it} to {a}",
            "swap {it} for {a}",
            "exchange {it} for {a}",
            "put {a} instead of {it}",
            "put {a} in place of {it}",
            "i want {a} instead of {it}",
            "make {it} {a}",
            "{it} should be {a}",
        ),
        ("swap {it} with {a}", "replace {it} by {a}", "{a} instead of {it}"),
    ),
    "remove": (
        (
            "remove {it}",
            "delete {it}",
            "erase {it}",
            "take {it} away",
            "take away {it}",
            "take out {it}",
            "get rid of {it}",
            "make {it} disappear",
            "remove {it} from the picture",
            "i do not want {it}",
            "without {it}",
        ),
        ("delete {it} from the picture", "take {it} out of the picture", "i want the picture without {it}"),
    ),
    "add": (
        (
            "add {a} {place}",
            "put {a} {place}",
            "place {a} {place}",
            "draw {a} {place}",
            "insert {a} {place}",
            "{place} add {a}",
            "{place} put {a}",
            "there should be {a} {place}",
            "i want {a} {place}",
            "add {a} to the picture {place}",
        ),
        ("{place} there should be {a}", "i want to add {a} {place}", "draw {a} to the picture {place}"),
    ),
    "move": (
        (
            "move {it} {to}",
            "put {it} {place}",
            "place {it} {place}",
            "shift {it} {to}",
            "bring {it} {to}",
            "move {it} over {to}",
            "{it} should be {place}",
            "i want {it} {place}",
        ),
        ("shift {it} over {to}", "i want {it} to move {to}", "take {it} {to}"),
    ),
    "background": (
        (
            "change the background to {value}",
            "replace the background with {value}",
            "replace the background by {value}",
            "make the background {value}",
            "put everything in {value}",
            "move everything to {value}",
            "set the scene in {value}",
            "put the scene in {value}",
            "the background should be {value}",
            "now in {value}",
            "i want {value} in the background",
        ),
        ("swap the background for {value}", "move the scene to {value}", "turn the background into {value}"),
    ),
    "season": (
        (
            "make it {value}",
            "change the season to {value}",
            "turn it into {value}",
            "now in {value}",
            "show it in {value}",
            "it should be {value}",
            "i want it to be {value}",
            "set the scene in {value}",
        ),
        ("turn the season to {value}", "show the scene in {value}", "change it to {value}"),
    ),
    "time": (
        (
            "make it {value}",
            "change the time to {value}",
            "change the time of day to {value}",
            "turn it into {value}",
            "show it at {value}",
            "it should be {value}",
            "i want it to be {value}",
            "now at {value}",
        ),
        ("turn the time of day to {value}", "show the scene at {value}", "change it to {value}"),
    ),
    "look": (
        (
            "make it {value}",
            "make the picture {value}",
            "make the whole picture {value}",
            "turn the picture {value}",
            "turn it {value}",
            "change the picture to {value}",
            "the picture should be {value}",
            "i want it {value}",
            "show it in {value}",
        ),
        ("change it to {value}", "i want the picture {value}", "the whole picture in {value}"),
    ),
    "resize": (
        (
            "make {it} {size}",
            "{it} should be {size}",
            "i want {it} {size}",
            "i want {it} to be {size}",
            "change the size of {it} and make it {size}",
            "draw {it} {size}",
            "turn {it} into a {size} one",
        ),
        ("i want to make {it} {size}", "show {it} {size}", "make the size of {it} {size}"),
    ),
    "count": (
        (
            "turn {it} into {several}",
            "replace {it} with {several}",
            "there should be {several} instead of {it}",
            "i want {several} instead of {it}",
            "change {it} to {several}",
            "put {several} in place of {it}",
            "make {it} {several}",
            "draw {several} instead of {it}",
        ),
        ("swap {it} for {several}", "put {several} instead of {it}", "change {it} into {several}"),
    ),
    "text": (
        (
            "change the sign to {text}",
            "make the sign say {text}",
            "write {text} on the sign",
            "put {text} on the sign",
            "the sign should say {text}",
            "replace {old} with {text}",
            "change {old} to {text}",
            "let the sign say {text}",
            "i want the sign to say {text}",
            "change the text on the sign to {text}",
        ),
        ("make the text on the sign {text}", "i want {text} on the sign", "turn {old} into {text}"),
    ),
    "style": (
        (
            "make it {value}",
            "turn it into {value}",
            "turn the picture into {value}",
            "draw it as {value}",
            "show it as {value}",
            "make the picture look like {value}",
            "make it look like {value}",
            "the picture should be {value}",
        ),
        ("change the picture into {value}", "draw the picture as {value}", "it should look like {value}"),
    ),
    "style reference": (
        (
            "draw {a} {where} in this style",
            "{a} {where} in the same style",
            "in this style draw {a} {where}",
            "make {a} {where} in the style of this picture",
            "use this style to draw {a} {where}",
            "paint {a} {where} in this style",
            "i want {a} {where} in this style",
        ),
        (
            "show {a} {where} in this style",
            "in the same style draw {a} {where}",
            "paint {a} {where} in the same style",
        ),
    ),
    "character reference": (
        (
            "the same robot {where}",
            "this robot {where}",
            "show the same robot {where}",
            "draw this robot {where}",
            "now the same robot {where}",
            "put the same robot {where}",
            "i want the same robot {where}",
            "take this robot and put it {where}",
        ),
        ("show this robot {where}", "draw the same robot {where}", "i want this robot {where}"),
    ),
}
"""Phrasings by kind: those that training uses, and those held out of it. {it} names the thing, {a} the thing
asked for ("a red ball"), {new} its shape or its colour and shape, {colour}, {place}, {value} the rest."""

SAYINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("season", "winter"): ("make it snow", "let it snow", "cover everything in snow", "add snow"),
    ("season", "autumn"): ("make it fall", "make the leaves fall"),
    ("season", "summer"): ("make it green again", "melt the snow"),
    ("time", "night"): ("turn day into night", "make it dark", "add a moon and stars"),
    ("time", "sunset"): ("let the sun go down", "make it evening"),
    ("time", "day"): ("let the sun come up", "make it bright"),
    ("look", "black and white"): (
        "remove all colour",
        "remove the colours",
        "make it grey",
        "grayscale",
        "black and white",
    ),
    ("look", "sepia"): ("make it look like an old photo", "give it a sepia tone", "sepia"),
    ("look", "inverted"): (
        "invert the colours",
        "invert the colors",
        "make it a negative",
        "turn it into a negative",
    ),
}
"""Whole instructions for values that also go by other words."""

VALUES: dict[str, tuple[str, ...]] = {
    "meadow": ("a meadow", "the meadow", "a green meadow", "a field"),
    "forest": ("a forest", "the forest", "the woods"),
    "mountains": ("the mountains", "a mountain landscape", "mountains"),
    "beach": ("a beach", "the beach", "the seaside"),
    "desert": ("a desert", "the desert", "a sandy desert"),
    "city": ("a city", "the city", "a town"),
    "pencil": ("a pencil drawing", "a pencil sketch", "a sketch"),
    "watercolour": ("a watercolour", "a watercolour painting", "a watercolor painting"),
    "pixels": ("pixel art", "pixels"),
    "comic": ("a comic", "a comic drawing", "a cartoon"),
    "blueprint": ("a blueprint", "a blueprint drawing"),
    "summer": ("summer",),
    "autumn": ("autumn", "fall"),
    "winter": ("winter",),
    "day": ("day", "daytime", "noon"),
    "sunset": ("sunset", "evening", "dusk"),
    "night": ("night", "night time", "midnight"),
    "black and white": ("black and white", "grey", "gray"),
    "sepia": ("sepia", "brown like an old photo"),
    "inverted": ("inverted", "negative"),
}

PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left"),
    "middle": ("in the middle", "in the center", "in the centre"),
    "right": ("on the right", "on the right side", "at the right"),
    "sky left": ("in the sky on the left", "at the top left", "in the left of the sky"),
    "sky middle": ("in the sky in the middle", "at the top in the middle", "in the middle of the sky"),
    "sky right": ("in the sky on the right", "at the top right", "in the right of the sky"),
}
DESTINATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "to the left side"),
    "middle": ("to the middle", "to the center", "to the centre"),
    "right": ("to the right", "to the right side"),
    "sky left": ("to the top left", "to the left of the sky"),
    "sky middle": ("to the top in the middle", "to the middle of the sky"),
    "sky right": ("to the top right", "to the right of the sky"),
}
WHERE: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "in a field"),
    "forest": ("in a forest", "in the woods"),
    "mountains": ("in the mountains", "in a mountain landscape"),
    "beach": ("at the beach", "on a beach"),
    "desert": ("in the desert", "in a sandy desert"),
    "city": ("in the city", "in a town"),
}
"""Where something is drawn anew."""
WHEN = {"day": "", "sunset": " at sunset", "night": " at night"}
SIZES = {True: ("bigger", "larger"), False: ("smaller",)}
NUMBERS = ("one", "two", "three")
JOINTS = (" and ", " and then ", ", then ")
OPENINGS = ("please ", "could you ", "can you ", "now ")
