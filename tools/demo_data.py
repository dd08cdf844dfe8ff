"""Stories for the built-in model: read, repair and describe them.

The larger TinyStories extract is lower case and carries broken quotes, so every story is cleaned and
re-cased here before anything learns from it. `truecase_accuracy` measures the repair against the
smaller extract, which kept its capitals. A story then gets topics (the nouns a child would name it
by), so that "Tell me a story about a cat" can be answered with a story that is about a cat.
"""

import collections
import json
import pathlib
import random
import re

BROKEN_QUOTES = [("â€œ", '"'), ("â€™", "'"), ("â€˜", "'"), ("â€¦", "..."), ("â€“", "-"), ("â€”", "-"), ("â€\x9d", '"'), ("â€", '"'),
                 ("“", '"'), ("”", '"'), ("’", "'"), ("‘", "'")]
OPENER = re.compile(r"(once|one (day|sunny|morning|night|\w+ day)|there (was|were|once|lived)|it was a|in a |long ago|"
                    r"\w+ (and \w+ )?(was|were|had|liked|loved|is|are|went|like|love|wanted)\b|a \w+|two |(mum|mom|dad) and)")

GIRLS = """lily mia sue amy sara sarah anna emma lucy lila ella zoe molly jane jenny kate daisy ruby nina lisa rosie maya bella emily
annie sally betty alice mary sophie sophia lola ellie polly tina amelia olivia ava chloe grace lizzie susie katie julie clara maggie
penny millie holly jill nancy rachel hannah laura abby kitty""".split()
BOYS = """tim tom ben max sam jack john joe bob billy timmy tommy bobby danny mike leo peter jimmy charlie david johnny andy jake jim
mark dan fred george harry henry james nick paul pete roger ryan teddy toby alex adam oliver daniel ethan josh kevin lucas luke matt
michael noah oscar owen robert simon steve theo tony will zack""".split()
PETS = """spot fluffy buddy rex coco benny whiskers goldie sunny ginger lucky rocky pip brownie mittens patches bruno hoppy nibbles
pebbles snowy biscuit felix pepper""".split()
# Names that are everyday words too: capitalised only in stories where somebody is said to be "named" so.
ALSO_WORDS = set("will mark grace daisy rosie holly ruby penny jack spot fluffy buddy sunny ginger lucky rocky pip brownie patches "
                 "pebbles biscuit pepper snowy bob kitty bill rose hope may".split()) - {"jack", "bob", "daisy", "rosie", "ruby", "buddy"}
ALWAYS = set(GIRLS + BOYS + PETS) - ALSO_WORDS
CALENDAR = "monday tuesday wednesday thursday friday saturday sunday christmas halloween santa".split()
NOT_NAMES = set("the a an his her it out to for him them and my after little big their will may that this".split())
SPEECH = r"(?:said|says|asked|asks|shouted|shouts|cried|cries|replied|replies|yelled|yells|called|exclaimed|thought|answered|whispered|told)"
TAG = re.compile(rf"(?:he|she|they|it|i|we)\b|(?:the|his|her|their|a|one)(?: \w+){{1,3}} {SPEECH}\b|(?:{SPEECH})\b")

GRIM = re.compile(r"\b(kill\w*|died|dies|die|dead|death|poison\w*|blood\w*|guns?|shot|stab\w*|knife|knives|drunk|beer|wine|stupid"
                  r"|drown\w*|whip\w*|hell|devil|idiot)\b", re.I)


def repair(text):
    """One story with plain quotes, single spaces and paragraphs parted by one empty line; None if it is beyond repair or too grim."""
    for broken, whole in BROKEN_QUOTES:
        text = text.replace(broken, whole)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n[ \n]*", "\n\n", text.strip())
    if not text.isascii() or not 200 <= len(text) <= 2500 or text[-1] not in '.!?"' or re.search(r"[<>{}|=_#*\[\]\\@]", text):
        return None
    if GRIM.search(text):
        return None
    return text


def split_lowercase(text):
    """The large extract parts stories by one line break and paragraphs by two; some stories were torn at single breaks."""
    stories = []
    for piece in re.split(r"(?<!\n)\n(?!\n)", text):
        torn = stories and (piece.startswith(" ") or stories[-1].endswith(" ") or not OPENER.match(piece.strip()))
        if torn and len(stories[-1]) + len(piece) < 2500:
            stories[-1] += "\n\n" + piece
        else:
            stories.append(piece)
    return stories


def learn_names(cased):
    """Words that the cased stories write with a capital in mid-sentence."""
    upper, lower = collections.Counter(), collections.Counter()
    for story in cased:
        for word in re.findall(r"(?<=[a-z,] )[A-Za-z]+", story):
            (upper if word[0].isupper() else lower)[word.lower()] += 1
    return {w for w, n in upper.items() if n >= 2 and n > 4 * lower[w] and len(w) > 1}


def truecase(text, names):
    """Gives a lower-case story its capitals back."""
    local = set(re.findall(r"\b(?:named|name was|name is) (\w+)", text)) - NOT_NAMES
    known = (names - ALSO_WORDS) | ALWAYS | local | set(CALENDAR)

    def word_case(match):
        word = match.group(0)
        before = text[:match.start()]
        if word in known or word == "i" or (word in ("mr", "mrs", "dr", "miss") and len(word) < 4):
            return word.capitalize()
        if word in ("mom", "mommy", "dad", "daddy", "mum", "mama", "papa", "grandma", "grandpa"):
            held = re.search(r"\b(the|his|her|their|my|your|our|a|its|\w+'s|(?:old|new|little)|(?:his|her|their|my|your) (?:mom|dad|mommy|daddy|mum) and)[ ]$", before)
            return word if held else word.capitalize()
        head = before.rstrip(" ")
        if not head or head[-1] == "\n" or re.search(r"(?:mr|mrs|dr|miss)\.?$", head):
            return word.capitalize()
        opens = head[-1] == '"' and text[match.start() - 1] == '"'
        if opens and head.count('"') % 2 == 1:
            return word if re.search(r'[a-z,] ?"[^"]*," [^".!?]*, "$', head) else word.capitalize()
        if head[-1] in ".!?":
            return word.capitalize()
        if head[-1] == '"' and len(head) > 1 and head[-2] in ".!?" and text[match.start() - 1] == " ":
            tagged = head[-2] != "." and TAG.match(text, match.start())
            return word if tagged else word.capitalize()
        return word

    return re.sub(r"[a-z]+(?<!')", lambda m: m.group(0) if text[m.start() - 1:m.start()] == "'" and m.start() > 1
                  and text[m.start() - 2].isalpha() else word_case(m), text)


def load_stories(text_dir):
    """All usable stories, cased, without duplicates, in a fixed order, and how well the re-casing did on known stories."""
    folder = pathlib.Path(text_dir)
    cased = [s for s in map(repair, json.loads((folder / "tinystories_1000.json").read_text())) if s]
    names = learn_names(cased)
    sample = cased[::5]
    wrong = sum(a != b for s in sample for a, b in zip(truecase(s.lower(), names), s))
    accuracy = 1 - wrong / sum(map(len, sample))
    stories = {re.sub(r"\W", "", s.lower()): s for s in cased}
    for piece in split_lowercase((folder / "tinystories_A_4.2MB.txt").read_text()):
        story = repair(piece)
        if story:
            stories.setdefault(re.sub(r"\W", "", story), truecase(story, names))
    return list(stories.values()), accuracy


ANIMALS = """cat dog bird bear rabbit mouse fox lion tiger duck frog monkey elephant squirrel turtle pig cow horse goat sheep owl hen
wolf deer panda zebra giraffe hamster penguin koala dragon dinosaur unicorn""".split()
TELLING = re.compile(r"\b(bark\w*|woof|meow\w*|purr\w*|fl(?:y|ew|ies|ying)|wings?|sw(?:im|am|ims|imming|um)|fins?|moo\w*|quack\w*|oink\w*"
                     r"|chirp\w*|tweet\w*|hop(?:ped|ping|s)?|ribbit|roar\w*|nest|sea|ocean|pond|bones?|carrots?|cheese|eggs?|feathers?|mane"
                     r"|trunk|stripes|leash|kittens?|pupp\w+|chicks?|bunn\w+|fish|shell|web|hooves|honey|milk|wool|horns?|stripes)\b", re.I)
THINGS = """ball boat book box bike cake car castle cookie doll fairy farmer fish flower garden girl boy hat house ice king kite knight
leaf moon park pirate pizza plane prince princess puppet queen rainbow river robot rock ship shoe shop snow star sun sunflower swing
teddy train tree truck whale witch wizard crab shark butterfly bee ant spider snail worm kitten puppy bunny chicken baby grandma grandpa
doctor apple banana orange carrot soup bread jar key lamp letter map mirror paint pencil pillow pond puzzle ring sand sandwich snowman
swan toy umbrella wagon wand bell bench blanket bottle bridge bucket bug bus button camera candle cave chair clock cloud cup drum
fire forest ghost gift giant guitar hill hole jacket jungle kitchen ladder lake lemon library lizard mailbox mitten monster mountain
mushroom needle nurse ocean owl paper parrot path piano picture pie pigeon pillow pumpkin purse sailor scarf school sea seed shirt
skirt snake sock sofa spoon stone storm store sweater table tent tiger tower tractor treasure truck vase watermelon whistle window
zoo dolphin donkey octopus crocodile hippo kangaroo peacock alligator clown ballerina teacher superhero policeman fireman""".split()
TOPICS = set(ANIMALS + THINGS)


def article(word):
    return ("an " if word[0].lower() in "aeiou" else "a ") + word


def topics_of(story):
    """The nouns a story is about, most mentioned first: named early, and again later."""
    words = re.findall(r"[a-z]+", story.lower())
    early, counts = set(words[:45]), collections.Counter(words)
    found = []
    for topic in sorted(TOPICS):
        n = counts[topic] + counts[topic + "s"]
        if n >= 3 and (topic in early or topic + "s" in early):
            found.append((-n, topic))
    return [topic for _, topic in sorted(found)]


def hero_of(story):
    """(kind, name) of the first somebody that the story introduces by name, e.g. ("girl", "Lily")."""
    match = re.search(r"\b([a-z]+) (?:who was |was )?named ([A-Z][a-z]+)\b", story[:250])
    return match.groups() if match else None


def swap_word(story, old, new):
    """Every `old` becomes `new`, in both cases and numbers, with the article before it put right."""
    story = re.sub(rf"\b(a|an|A|An) {old}\b", lambda m: (article(new) if m[1][0] == "a" else article(new).capitalize()), story)
    for a, b in ((old, new), (old.capitalize(), new.capitalize())):
        story = re.sub(rf"\b{a}(?=s?\b)", b, story)
    return story


IRREGULAR = {"mouse", "fox", "wolf", "sheep", "deer"}


def main_animal(story):
    """The one animal that a story is about and that could as well be another one; None otherwise."""
    animals = [a for a in ANIMALS if re.search(rf"\b{a}s?\b", story, re.I)]
    if len(animals) != 1 or not re.search(rf"\b{animals[0]}\b", story[:250]):
        return None
    return animals[0]


def swap_animal(story, rng):
    """The same story about another animal, where that cannot be noticed; else unchanged."""
    animal = main_animal(story)
    if animal is None or animal in IRREGULAR or TELLING.search(story) or rng.random() < 0.25:
        return story
    plural = re.search(rf"\b{animal}s\b", story, re.I)
    choice = rng.choice([a for a in ANIMALS if a != animal and not (plural and a in IRREGULAR)])
    return swap_word(story, animal, choice)


def rename_hero(story, rng):
    """The same story with another name for the girl, boy or pet whom it introduces; often unchanged."""
    hero = hero_of(story)
    if not hero or rng.random() < 0.4 or hero[1].lower() in ALSO_WORDS:
        return story
    pool = GIRLS if hero[0] == "girl" else BOYS if hero[0] == "boy" else PETS if hero[1].lower() in PETS else []
    pool = [n.capitalize() for n in pool if not re.search(rf"\b{n}\b", story, re.I)]
    return re.sub(rf"\b{hero[1]}\b", rng.choice(pool), story) if pool else story


def hero_to_animal(story, rng):
    """A story about a girl or boy becomes one about an animal of the same name, unless the body gives it away."""
    hero = hero_of(story)
    body = r"\b(hair|dress|shirt|shoes?|clothes|school|hands?|fingers?|birthday|toilet|pants|coat|haircut|bike|teacher|girls?|boys?)\b"
    if not hero or hero[0] not in ("girl", "boy") or len(re.findall(body, story)) > len(re.findall(rf"\b{hero[0]}\b", story)):
        return story
    if any(re.search(rf"\b{a}s?\b", story, re.I) for a in ANIMALS):
        return story
    return swap_word(story, hero[0], rng.choice(ANIMALS))


def vary(story, rng):
    """One of the many tellings of a story: other animals, other names."""
    return rename_hero(swap_animal(story, rng), rng)
