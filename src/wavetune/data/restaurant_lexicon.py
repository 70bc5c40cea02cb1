"""Words of the restaurant descriptions: what there is to say (values), and ways to say it (phrases).

A phrase table maps a role to alternatives, in which fields stand in braces. Tables of one slot keep the alternatives of
a role in the same order over its values, so that a preferred way of saying carries over from value to value. Roles:
`adjective` before a noun, `modifier` after it, `verb` phrase after a subject, `clause`, `noun` phrase, `tag`
in a list, `front` before a sentence.
"""

from __future__ import annotations

CUISINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # dishes, owners
    "Ethiopian": (("doro wat", "shiro", "kitfo", "misir wat"), ("Abeba", "Dawit", "Selam", "Tigist", "Yonas")),
    "Georgian": (("khachapuri", "lobio", "satsivi", "chakapuli"), ("Nino", "Giorgi", "Tamar", "Levan", "Ketevan")),
    "Greek": (("moussaka", "stifado", "spanakopita", "fava"), ("Eleni", "Stavros", "Kalliope", "Nikos", "Despina")),
    "Korean": (("bibimbap", "kimchi stew", "japchae", "bulgogi"), ("Minji", "Jisoo", "Hana", "Taeyang", "Sora")),
    "Lebanese": (("tabbouleh", "fattoush", "kibbeh", "hummus"), ("Nadim", "Layal", "Ziad", "Rima", "Samar")),
    "Mexican": (("pozole", "birria", "mole poblano", "guacamole"), ("Lupita", "Rosario", "Diego", "Xochitl", "Paloma")),
    "Peruvian": (("ceviche", "lomo saltado", "causa", "pachamanca"), ("Ines", "Mateo", "Alma", "Rocio", "Tadeo")),
    "Polish": (("bigos", "barszcz", "zurek", "poppy-seed cake"), ("Zosia", "Marek", "Halina", "Kasia", "Witek")),
    "Thai": (("green curry", "tom yum", "pad thai", "sticky rice"), ("Malee", "Somchai", "Ploy", "Niran", "Kanya")),
    "Vietnamese": (("pho", "bun cha", "banh xeo", "cao lau"), ("Linh", "Thuy", "Bao", "Mai", "Quang")),
}

EAT_TYPES = ("restaurant", "pub", "bistro", "diner", "canteen", "tavern")
NO_EAT_TYPE = ("place", "spot", "venue")
PRICES = ("cheap", "moderate", "expensive")
STARS = ("one", "two", "three", "four", "five")
AREAS = {
    "harbour": "by the harbour",
    "old town": "in the old town",
    "university quarter": "in the university quarter",
    "market square": "on the market square",
    "north bank": "on the north bank",
    "station quarter": "in the station quarter",
    "castle hill": "on castle hill",
    "canal side": "on the canal side",
}
SEATS = {
    "terrace": "on the terrace",
    "garden": "in the garden",
    "courtyard": "in the courtyard",
    "rooftop": "on the rooftop",
}
LANDMARKS = (
    "Weaver's Bridge", "Foundry Park", "St Odile's Church", "the Quarry Theatre", "Pilgrim Gate", "the Tannery Museum",
    "Observatory Lawn", "the Cobalt Cinema", "Ferry Stairs", "Bellfounder's Yard", "the Almond Street Library",
    "Granary Arcade", "Hopfield Station", "Saltmarsh Pier", "the Linden Baths", "Clockmaker's Row", "Sailcloth Hall",
    "the Beacon Tower", "Fisher Row", "the Glass Market",
)  # fmt: skip

NAME_ADJECTIVES = (
    "Copper", "Silver", "Crooked", "Quiet", "Painted", "Wandering", "Amber", "Salted", "Velvet", "Humble", "Striped",
    "Northern", "Paper", "Winter", "Hollow", "Scarlet", "Lucky", "Sleepy", "Brass", "Ivory", "Little", "Midnight",
    "Patient", "Tilted", "Borrowed",
)  # fmt: skip
NAME_NOUNS = (
    "Kettle", "Lantern", "Sparrow", "Anchor", "Ladle", "Barrel", "Orchard", "Fig", "Heron", "Button", "Compass",
    "Thimble", "Walnut", "Pigeon", "Saddle", "Teapot", "Juniper", "Otter", "Basket", "Feather", "Chimney", "Marble",
    "Saffron", "Bicycle", "Umbrella", "Pepper", "Magpie", "Cellar", "Windmill", "Clover",
)  # fmt: skip
NAME_PLACES = ("Kitchen", "Table", "House", "Corner", "Parlour", "Pantry", "Yard", "Counter")

Table = dict[str, tuple[str, ...]]

PRICE: dict[str, Table] = {
    "cheap": {
        "adjective": ("cheap", "low-cost", "inexpensive", "budget"),
        "verb": ("charges very little", "keeps its prices low", "is easy on the wallet", "will not cost you much"),
        "clause": ("prices are low", "a meal costs little", "the bill stays small", "you pay little"),
        "noun": ("low prices", "a small bill", "budget prices", "cheap plates"),
    },
    "moderate": {
        "adjective": ("moderately priced", "mid-priced", "fairly priced", "mid-range"),
        "verb": (
            "charges a fair sum",
            "keeps its prices moderate",
            "stays in the middle price range",
            "will cost you a fair sum",
        ),
        "clause": (
            "prices are moderate",
            "a meal costs a fair sum",
            "the bill is middling",
            "you pay a moderate amount",
        ),
        "noun": ("moderate prices", "a middling bill", "mid-range prices", "fairly priced plates"),
    },
    "expensive": {
        "adjective": ("expensive", "high-priced", "pricey", "upmarket"),
        "verb": ("charges a lot", "keeps its prices high", "is hard on the wallet", "will cost you dearly"),
        "clause": ("prices are high", "a meal costs a lot", "the bill is steep", "you pay a lot"),
        "noun": ("high prices", "a steep bill", "premium prices", "expensive plates"),
    },
}
FAMILY: dict[str, Table] = {
    "yes": {
        "adjective": ("family-friendly", "child-friendly"),
        "modifier": ("where children are welcome", "that welcomes families"),
        "verb": ("welcomes children", "is good for families", "caters for children", "suits families with children"),
        "clause": (
            "children are welcome",
            "families feel at home",
            "you can bring the children",
            "young guests are welcome",
        ),
        "noun": (
            "a warm welcome for children",
            "a family-friendly room",
            "plenty of space for children",
            "a family crowd",
        ),
    },
    "no": {
        "adjective": ("adults-only", "grown-up"),
        "modifier": ("where children are not welcome", "that does not suit families"),
        "verb": (
            "turns children away",
            "is not good for families",
            "does not cater for children",
            "is no place for families",
        ),
        "clause": (
            "children are not welcome",
            "families should look elsewhere",
            "leave the children at home",
            "young guests are not admitted",
        ),
        "noun": ("no welcome for children", "an adults-only room", "no space for children", "an adult crowd"),
    },
}
RATING: Table = {  # number, word, stars
    "adjective": ("{word}-star",),
    "verb": (
        "is rated {number} out of 5",
        "has a customer rating of {number} out of 5",
        "earns {stars}",
        "scores {number}/5 with its guests",
    ),
    "clause": (
        "customers rate it {number} out of 5",
        "guests give it {stars}",
        "its score stands at {number}/5",
        "reviewers award it {stars}",
    ),
    "noun": (
        "a rating of {number} out of 5",
        "{stars} from its guests",
        "a score of {number}/5",
        "a {word}-star reputation",
    ),
}
AREA: Table = {  # value, where
    "front": ("{where}",),
    "modifier": ("{where}", "right {where}", "located {where}"),
    "verb": ("stands {where}", "can be found {where}", "is located {where}", "sits {where}"),
    "clause": ("you will find it {where}", "it is {where}", "its door is {where}", "it opens its doors {where}"),
    "tag": ("{where}",),
}
NEAR: Table = {
    "front": ("near {value}", "close to {value}", "not far from {value}", "a short walk from {value}"),
    "modifier": ("near {value}", "close to {value}", "not far from {value}", "a short walk from {value}"),
    "verb": ("is near {value}", "lies close to {value}", "is not far from {value}", "is a short walk from {value}"),
    "clause": ("{value} is nearby", "{value} is close by", "{value} is not far", "{value} is a short walk away"),
    "tag": ("near {value}", "close to {value}"),
}
SEATING: Table = {  # value, where
    "modifier": ("with {value} seating", "with tables {where}", "with {value} tables", "that seats its guests {where}"),
    "verb": ("offers {value} seating", "sets out tables {where}", "has {value} tables", "seats its guests {where}"),
    "clause": ("there is {value} seating", "guests can sit {where}", "you can eat {where}", "tables stand {where}"),
    "noun": ("{value} seating", "tables {where}", "a seat {where}", "{value} tables"),
}
SPECIALITY: Table = {
    "modifier": (
        "known for its {value}",
        "famed for its {value}",
        "that specialises in {value}",
        "with {value} as its speciality",
    ),
    "verb": (
        "is known for its {value}",
        "specialises in {value}",
        "takes pride in its {value}",
        "puts {value} first on its menu",
    ),
    "clause": (
        "the {value} is the speciality",
        "the dish to order is the {value}",
        "regulars order the {value}",
        "everyone asks for the {value}",
    ),
    "noun": ("plenty of {value}", "fine {value}", "house-made {value}", "good {value}"),
}

SLOTS: tuple[str, ...] = ("speciality", "priceRange", "customer rating", "area", "seating", "familyFriendly", "near")
TABLES: dict[str, Table] = {"speciality": SPECIALITY, "area": AREA, "seating": SEATING, "near": NEAR}
