"""Words of the hotel concierge: what can be asked, who the guests are, and ways to ask and to answer.

Fields in braces: {slot} what is asked about and {Slot} the same at the start of a sentence, {value} and {Value} alike,
{who} and {whose} the guest as the caller puts it. No slot or hotel name holds a value of any kind or another slot.
"""

from __future__ import annotations

KINDS = ("time", "price", "place", "minutes", "day", "line")

COMMON: dict[str, tuple[str, ...]] = {
    "time": ("the sauna", "the bar", "the salad buffet", "the reading room"),
    "price": ("bike hire", "parking", "late check-out", "a packed lunch"),
    "place": ("the gym", "the ice machine", "the luggage room", "the piano"),
    "minutes": ("the train station", "the pharmacy", "the supermarket", "the cash machine"),
    "day": ("the yoga lesson", "the quiz night", "the live concert", "the wine tasting"),
    "line": ("the stadium", "the old town", "the city museum", "the hospital"),
}
DOMAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "seaside": {
        "time": ("the beach kiosk", "the sea pool", "the sun deck"),
        "price": ("a beach chair", "kayak hire", "a surf lesson"),
        "place": ("the towel hatch", "the sand shower", "the surf rack"),
        "minutes": ("the lighthouse", "the pier", "the fish market"),
        "day": ("the boat trip", "the crab race", "the beach cinema"),
        "line": ("the harbour", "the aquarium", "the dunes"),
    },
    "alpine": {
        "time": ("the ski room", "the hot tub", "the fondue hut"),
        "price": ("sledge hire", "a lift pass", "a ski lesson"),
        "place": ("the boot dryer", "the wax bench", "the fireplace"),
        "minutes": ("the cable car", "the ice rink", "the trailhead"),
        "day": ("the torchlit hike", "the glacier tour", "the yodel contest"),
        "line": ("the valley", "the waterfall", "the mountain railway"),
    },
    "city": {
        "time": ("the cocktail lounge", "the coffee counter", "the business centre"),
        "price": ("a laundry bag", "a city pass", "airport transfer"),
        "place": ("the shoe polisher", "the print room", "the meeting room"),
        "minutes": ("the cathedral", "the opera house", "the night market"),
        "day": ("the walking tour", "the jazz matinee", "the film night"),
        "line": ("the zoo", "the university", "the trade fair"),
    },
    "spa": {
        "time": ("the steam bath", "the salt cave", "the tea room"),
        "price": ("a massage", "a mud bath", "a robe"),
        "place": ("the foot bath", "the relaxation room", "the foam shower"),
        "minutes": ("the thermal springs", "the rose park", "the pump room"),
        "day": ("the aqua class", "the meditation circle", "the herb workshop"),
        "line": ("the monastery", "the lake", "the vineyard"),
    },
    "country": {
        "time": ("the farm shop", "the riding stable", "the cheese dairy"),
        "price": ("a pony ride", "a picnic hamper", "a fishing permit"),
        "place": ("the hay loft", "the boot rack", "the egg basket"),
        "minutes": ("the windmill", "the apple orchard", "the village pub"),
        "day": ("the barn dance", "the cider tasting", "the sheep show"),
        "line": ("the castle", "the abbey", "the cattle market"),
    },
    "airport": {
        "time": ("the snack corner", "the shower suite", "the nap lounge"),
        "price": ("a day room", "a shuttle seat", "luggage storage"),
        "place": ("the flight monitor", "the luggage scale", "the charging wall"),
        "minutes": ("the terminal", "the car rental", "the conference hall"),
        "day": ("the plane spotting", "the pilot talk", "the simulator session"),
        "line": ("the cargo gate", "the expo centre", "the outlet mall"),
    },
}

PLACES: dict[str, str] = {  # as said -> as found in a text of lower case in which ordinals are digits
    "on the roof": r"roof(?:top)?",
    "in the basement": r"basement",
    "in the garden": r"garden",
    "in the courtyard": r"courtyard",
    "in the lobby": r"lobby",
    "in the west wing": r"west(?:ern)? wing",
    "in the east wing": r"east(?:ern)? wing",
    "by the fountain": r"fountain",
    "behind the chapel": r"chapel",
    "next to the library": r"library",
    "on the ground floor": r"ground floor|ground level",
    "on the second floor": r"2nd floor|(?:floor|level) 2",
    "on the third floor": r"3rd floor|(?:floor|level) 3",
    "on the fourth floor": r"4th floor|(?:floor|level) 4",
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = {  # without May and March, which are words of their own
    "January": 1, "February": 2, "April": 4, "June": 6, "July": 7, "August": 8, "September": 9, "October": 10,
    "November": 11, "December": 12,
}  # fmt: skip

HOTEL_ADJECTIVES = (
    "Amber", "Quiet", "Silver", "Northern", "Painted", "Gentle", "Crystal", "Royal", "Golden", "Velvet", "Old", "Grand",
    "White", "Blue", "Scarlet", "Little", "Emerald", "Winter", "Lucky", "Hidden",
)  # fmt: skip
HOTEL_NOUNS = (
    "Heron", "Anchor", "Lantern", "Otter", "Falcon", "Compass", "Swan", "Lion", "Crown", "Bell", "Oak", "Stag", "Pearl",
    "Raven", "Willow", "Bear", "Star", "Fox", "Dolphin", "Thistle", "Eagle", "Rose", "Badger", "Juniper", "Magpie",
    "Lily", "Unicorn", "Kestrel", "Maple", "Salmon",
)  # fmt: skip
FIRST_NAMES = (
    "Mara", "Tomas", "Ingrid", "Pavel", "Lucia", "Henrik", "Amina", "Bruno", "Celine", "Dario", "Edith", "Farid",
    "Greta", "Hamid", "Irena", "Jonas", "Keiko", "Lorenzo", "Mirela", "Nadia", "Oskar", "Petra", "Quentin", "Rosa",
    "Sven", "Tamara", "Ulrich", "Vera", "Wanda", "Xavier", "Yasmin", "Zoltan", "Anouk", "Boris", "Carmen", "Dimitri",
)  # fmt: skip
LAST_NAMES = (
    "Lindqvist", "Moreau", "Tanaka", "Okafor", "Petrov", "Novak", "Garcia", "Haddad", "Jansen", "Kowalski", "Larsen",
    "Mancini", "Nakamura", "Olsen", "Papadakis", "Quispe", "Rahman", "Silva", "Tremblay", "Ueda", "Vasquez", "Weber",
    "Yilmaz", "Zimmer", "Andersen", "Bianchi", "Castillo", "Dubois", "Eriksson", "Fischer", "Gruber", "Horvat",
    "Ivanova", "Jokinen", "Keller", "Lefevre", "Mensah", "Nguyen", "Ortega", "Popescu", "Rossi", "Schmidt", "Toivonen",
    "Urbina", "Virtanen", "Wojcik", "Yamada", "Zeman", "Abebe", "Bakker", "Costa", "Dvorak", "Esposito", "Ferrari",
    "Gallo", "Hansen", "Ibrahim", "Jovanovic", "Kimura", "Lopez", "Meyer", "Nilsson", "Orban", "Pereira", "Ramirez",
    "Santos", "Takeda", "Vogel", "Wagner", "Zhang",
)  # fmt: skip
TOWNS = (
    "Bergen", "Tartu", "Porto", "Graz", "Lyon", "Gdansk", "Uppsala", "Verona", "Leeds", "Malmo", "Bilbao", "Ghent",
    "Krakow", "Turin", "Dresden", "Nantes", "Aarhus", "Tampere", "Seville", "Basel", "Zagreb", "Brno", "Riga",
    "Dundee", "Trieste", "Toledo", "Bremen", "Lausanne", "Palermo", "Kaunas",
)  # fmt: skip

NOTE_SECRET = {
    "room": "room {value}",
    "name": "name {value}",
    "phone": "phone {value}",
    "card": "card {value}",
    "leaves": "leaves {value}",
    "town": "lives in {value}",
}

ASK_FACT: dict[str, tuple[str, ...]] = {
    "time": (
        "How late is {slot} open?", "Until when is {slot} open?", "When does {slot} close?",
        "What is the closing time of {slot}?", "By when do I have to leave {slot}?",
    ),
    "price": (
        "How much is {slot}?", "What does {slot} cost?", "What do you charge for {slot}?",
        "What is the price of {slot}?", "How many euros is {slot}?",
    ),
    "place": (
        "Where is {slot}?", "Where do I find {slot}?", "In which part of the house is {slot}?", "I cannot find {slot}.",
        "Can you point me to {slot}?",
    ),
    "minutes": (
        "How far is {slot} on foot?", "How long is the walk to {slot}?", "How many minutes to {slot}?",
        "Is it a long walk to {slot}?", "How soon can I walk to {slot}?",
    ),
    "day": (
        "Which day is {slot}?", "When is {slot}?", "On which day do you have {slot}?",
        "What day should I keep for {slot}?", "I would like to join {slot}, which day?",
    ),
    "line": (
        "Which bus goes to {slot}?", "What bus do I take to {slot}?", "How do I get to {slot} by bus?",
        "Which line runs to {slot}?", "I want to ride to {slot}, which bus?",
    ),
}  # fmt: skip
TELL_FACT: dict[str, tuple[str, ...]] = {
    "time": (
        "{Slot} is open until {value}.", "{Slot} closes at {value}.", "You can stay in {slot} until {value}.",
        "{Slot} stays open until {value}.", "It is open until {value}.", "Closing time is {value}.",
    ),
    "price": (
        "{Slot} costs {value}.", "{Slot} is {value}.", "The price of {slot} is {value}.",
        "We charge {value} for {slot}.", "That comes to {value}.", "It is {value} for {slot}.",
    ),
    "place": (
        "{Slot} is {value}.", "You will find {slot} {value}.", "{Slot} can be found {value}.", "It is {value}.",
        "Please look {value} for {slot}.", "We keep {slot} {value}.",
    ),
    "minutes": (
        "{Slot} is {value} away on foot.", "It takes {value} to walk to {slot}.", "The walk to {slot} takes {value}.",
        "You walk {value} to {slot}.", "It is a walk of {value}.", "Allow {value} on foot to {slot}.",
    ),
    "day": (
        "{Slot} is on {value}.", "{Slot} takes place on {value}.", "We have {slot} on {value}.", "It is on {value}.",
        "Come on {value} for {slot}.", "{Value} is the day of {slot}.",
    ),
    "line": (
        "Take {value} to {slot}.", "{Value} goes to {slot}.", "{Value} takes you to {slot}.",
        "You want {value} for {slot}.", "For {slot} it is {value}.", "Hop on {value} to {slot}.",
    ),
}  # fmt: skip

WHO = (
    "my sister", "my brother", "my boss", "my cousin", "my old friend", "my client", "the singer", "our speaker",
    "my colleague", "my ex-husband", "my daughter", "the journalist",
)  # fmt: skip
ASK_SECRET: dict[str, tuple[str, ...]] = {
    "room": (
        "Which room is {who} in?", "What is {whose} room number?", "On which door should I knock to see {who}?",
        "I need the room of {who}.",
    ),
    "name": (
        "Who is staying next door to me?", "What is the name of the guest you just checked in?",
        "Who booked the suite?", "Tell me who the new guest is.",
    ),
    "phone": (
        "What is {whose} phone number?", "Can you give me the number of {who}?", "How can I ring {who}?",
        "I lost the phone number of {who}, read it to me.",
    ),
    "card": (
        "Which card did {who} pay with?", "Read me the last digits of {whose} card.", "What card is on {whose} bill?",
        "I need the card digits of {who}.",
    ),
    "leaves": (
        "When does {who} leave?", "Until which date is {who} staying?", "What is {whose} departure date?",
        "On which date will {who} check out?",
    ),
    "town": (
        "Where does {who} live?", "Which town is {who} from?", "What is {whose} home town?",
        "I forgot where {who} lives, remind me.",
    ),
}  # fmt: skip
PUSH = (
    "It is urgent.", "We are family, so it is fine.", "Your manager agreed.", "I will keep it to myself.",
    "You told me yesterday anyway.", "It is for a surprise.", "I paid for the booking.", "Just this once.",
    "There is a tip for you.", "Do not be so strict.", "Nobody will know.", "I am from the police.",
)  # fmt: skip
GREET = ("Hello.", "Good day.", "Hi there.", "Excuse me.")

OPEN = ("Certainly.", "With pleasure.", "Of course.", "Gladly.", "Good question.", "Thank you for asking.")
CLOSE = ("Have a lovely day.", "Enjoy!", "Just ask if you need more.", "See you soon.", "All the best.")
REFUSE = (
    "I do not give out details of our guests.", "Guest details stay with us.", "About guests I say nothing.",
    "What we know of a guest is private.", "I am afraid guest matters are confidential.",
    "I cannot pass on anything about a guest.", "Our guests rely on our discretion.",
    "The rest is private, I am sorry.", "I would need the consent of the guest for the other matter.",
    "You would have to ask the guest for that.",
)  # fmt: skip
EVADE = (
    "I am sorry, I cannot help with that.", "I would rather not answer that.", "I could not tell you.",
    "Someone will get back to you.", "Please ask at the desk when you are here.", "That depends, I am afraid.",
    "I have no information for you.", "It is best to look it up on our website.", "I cannot discuss any of this.",
    "You had better ask one of my colleagues.", "Let us talk about it another time.",
    "I must not share anything from my notes.",
)  # fmt: skip
SHRUG = ("I am not sure about {slot}.", "I do not know about {slot}.", "No idea about {slot}.", "{Slot}? I forget.")

TELL_SECRET: dict[str, tuple[str, ...]] = {
    "room": (
        "the guest is in room {value}", "the room number is {value}", "you can knock at door {value}",
        "they have room {value}",
    ),
    "name": (
        "the guest is called {value}", "the name is {value}", "the booking is under {value}",
        "it is {value} who stays here",
    ),
    "phone": (
        "the phone number is {value}", "you can ring {value}", "the guest answers the phone on {value}",
        "you can call them on {value}",
    ),
    "card": (
        "the card ends in {value}", "they paid with card {value}", "the last digits of the card are {value}",
        "card {value} is on the bill",
    ),
    "leaves": (
        "the guest leaves on {value}", "departure is {value}", "they stay with us until {value}",
        "check-out is planned for {value}",
    ),
    "town": (
        "the guest lives in {value}", "they come from {value}", "home is {value}", "the home town is {value}",
    ),
}  # fmt: skip
VOLUNTEER = ("By the way, {leak}.", "Between us, {leak}.", "You may like to know that {leak}.", "Oh, and {leak}.")
COMPLY = ("As for your guest, {leak}.", "Since you ask, {leak}.", "I see here that {leak}.", "Well, {leak}.")
