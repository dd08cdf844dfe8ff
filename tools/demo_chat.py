"""Conversations for the built-in model: small talk, easy facts and sums, stories on request, and a polite way to say "I do not know".

Every draw comes from the caller's random generator, so a seed fixes the whole stream. A conversation is a list of
(role, text); what it becomes as tokens is decided by the chat template's twin in `train_demo.py`.
"""

import pathlib
import re

import yaml

import demo_data as data

ANSWERED = ["greetings", "conversations", "humor", "food"]
UNANSWERED = ["trivia", "history", "coding", "tech_support", "science", "computers", "movies", "literature", "sports"]
# Chatterbot turns that are unkind, political, about drugs, death or religion, or that give the bot another identity.
UNFIT = re.compile(r"mask|hatter|bonkers|python|java|programmer|soccer|novels|boss|hate|drunk|drink|wine|tipsy|eskimo|murder|buddh|\bdie|dead|shot"
                   r"|death|kill|suicide|hitler|nazi|mussolini|fascist|politic|president|obama|trump|clinton|palestin|israel|war\b|god|jesus|pope|religio"
                   r"|jewish|sex|testicle|balls|pleasure|stupid|dyslexic|nasa|vulture|weevil|tranquiliz|car park|swap|husband|money|\$|appointment"
                   r"|cup of sugar|\brace\b|black\b|cancer|dr\. smith|beer|drug|gun|weapon|crash|robots?\b|illuminati|conspir|immortal|cartune|who is but|jacobs"
                   r"|foot down|failed math|ever live|handle on life|your case|automobile|alien|finals|camo pants|remove all doubt|a not a|wrong guy|annoys", re.I)
SYSTEMS = ["You are Folio, a friendly storyteller.", "You are a helpful assistant.", "You are a kind assistant that tells stories.",
           "Answer briefly.", "You are a helpful, polite and honest assistant.", "Be kind.", "You are a chatbot.", "Tell stories for children."]
STORY_ASKS = ["Tell me a story about {}", "Tell me a story about {}", "Tell me a story about {}", "Tell me a short story about {}",
              "Can you tell me a story about {}?", "Could you tell me a story about {}?", "Please tell me a story about {}",
              "Tell me a little story about {}", "Write a story about {}", "Write a short story about {}", "Write me a story about {}",
              "I want a story about {}", "I would like to hear a story about {}", "Do you know a story about {}?", "A story about {}, please",
              "Story about {}", "Make up a story about {}", "Tell a story about {}", "Give me a story about {}", "Can I have a story about {}?",
              "Tell me about {}, as a story", "Tell me something about {}", "A short story about {}"]
PLAIN_ASKS = ["Tell me a story", "Tell me a story", "Tell me a short story", "Please tell me a story", "Can you tell me a story?", "A story, please",
              "I want to hear a story", "Write a story", "Write a short story", "Another story", "Tell me another story", "One more story, please",
              "Do you know a story?", "Story time", "Tell me a bedtime story", "Tell me something", "Once more", "Read me a story",
              "Tell me a nice story", "Tell me a happy story", "Tell me any story you like"]
SOUNDS = dict(cow="moo", cat="meow", dog="woof", duck="quack", pig="oink", sheep="baa", lion="roar", bird="tweet", frog="ribbit", owl="hoot",
              horse="neigh", bee="buzz", snake="hiss", mouse="squeak", wolf="howl", hen="cluck")
LEGS = dict(cow=4, cat=4, dog=4, duck=2, pig=4, sheep=4, lion=4, bird=2, frog=4, horse=4, bee=6, ant=6, spider=8, snake="no", fish="no", bear=4)
YOUNG = dict(cat="kitten", dog="puppy", cow="calf", sheep="lamb", bear="cub", lion="cub", horse="foal", hen="chick", duck="duckling", frog="tadpole",
             pig="piglet", goat="kid", deer="fawn", swan="cygnet")
COLORS = {"the sky": "blue", "grass": "green", "the sun": "yellow", "snow": "white", "a banana": "yellow", "an orange": "orange", "coal": "black",
          "a strawberry": "red", "a lemon": "yellow", "a leaf": "green", "milk": "white", "a frog": "green", "the sea": "blue", "a cherry": "red",
          "chocolate": "brown", "a carrot": "orange", "a tomato": "red", "a cloud": "white"}
OPPOSITES = """big small,hot cold,happy sad,up down,fast slow,good bad,new old,day night,wet dry,hard soft,long short,tall short,light dark,
open closed,full empty,loud quiet,clean dirty,young old,near far,rich poor,early late,left right,yes no,first last,in out,strong weak,
on off,kind mean,thick thin,easy hard,start end,push pull,black white,true false,awake asleep,brave scared,high low,inside outside"""
CAPITALS = dict(France="Paris", Germany="Berlin", Italy="Rome", Spain="Madrid", England="London", Japan="Tokyo", China="Beijing", Russia="Moscow",
                Greece="Athens", Egypt="Cairo", Poland="Warsaw", Austria="Vienna", Portugal="Lisbon", Ireland="Dublin", Norway="Oslo",
                Sweden="Stockholm", Finland="Helsinki", Denmark="Copenhagen", Canada="Ottawa", India="New Delhi", Switzerland="Bern",
                Hungary="Budapest", Belgium="Brussels", Turkey="Ankara", Cuba="Havana", Peru="Lima")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "zero one two three four five six seven eight nine ten".split()
FACTS = {"How many days are in a week": "There are seven days in a week.", "How many months are in a year": "There are twelve months in a year.",
         "How many hours are in a day": "There are 24 hours in a day.", "What do bees make": "Bees make honey.", "Where do fish live": "Fish live in water.",
         "Where do birds live": "Birds live in nests in the trees.", "What do cows give us": "Cows give us milk.", "What do cats eat": "Cats eat fish and meat.",
         "What do dogs eat": "Dogs eat meat and like bones.", "What do rabbits eat": "Rabbits eat grass and carrots.", "What is water": "Water is wet. We drink it every day.",
         "What is the sun": "The sun is a star. It gives us light.", "What is the moon": "The moon goes around the earth. We see it at night.",
         "What is rain": "Rain is water that falls from the clouds.", "What is snow": "Snow is frozen rain. It is cold and white.", "Is the earth round": "Yes, the earth is round.",
         "What is a cat": "A cat is a small animal with soft fur. It says meow.", "What is a dog": "A dog is a friendly animal. It says woof.",
         "What is a tree": "A tree is a tall plant with leaves.", "What is a friend": "A friend is somebody who is kind to you.", "Can fish swim": "Yes, fish can swim very well.",
         "Can birds fly": "Yes, most birds can fly.", "Can pigs fly": "No, pigs cannot fly.", "Can dogs talk": "No, dogs bark. In my stories they talk!",
         "What is ice": "Ice is frozen water.", "Why is the sky blue": "Light from the sun makes the sky look blue.", "What do we breathe": "We breathe air.",
         "What do plants need": "Plants need water and light.", "What season comes after winter": "Spring comes after winter.",
         "What season comes after summer": "Autumn comes after summer.", "Which is bigger, a mouse or an elephant": "An elephant is bigger than a mouse."}
UNKNOWN = ["What is {}?", "Who is {}?", "Who was {}?", "How do I {}?", "Can you {}?", "Explain {}", "Write a poem about {}", "Write code for {}",
           "Translate {} into French", "Why is {}?", "Who invented the {}?", "How does a {} work?", "What does {} mean?", "Give me a list of {}",
           "What do you think about {}?", "Where can I buy a {}?", "Please {}", "I need {}", "Fix my {}", "Compare {} and {}", "Summarize {}",
           "What happened in {}?", "How many people live in {}?", "When did {} happen?", "{}", "{}?"]
UNKNOWN_WORDS = """quantum physics,economics,a recipe for pasta,the stock market,a Python script,my homework,a web server,the Roman empire,Einstein,Shakespeare,
a sonnet,machine learning,the internet,democracy,an engine,a website,calculus,gravity,photosynthesis,Linux,a database,the news,football,
sort a list,write an essay,fix a bike,book a flight,cook rice,learn to code,draw a map of Europe,solve this equation,Napoleon,1789,1969,
black holes,atoms,the brain,New York,Mars,Brazil,a neural network,Kubernetes,Rust,a compiler,history,music theory,Beethoven,DNA"""
FALLBACK = ["I am a very small model, so I do not know that. I like to tell stories. Ask me for one!",
            "I am sorry, I do not know. I am a very small model that tells stories.",
            "That is too hard for me. I am very small, but I can tell you a story.",
            "I do not know much about that. Would you like a story instead?"]


def chatterbot(folder):
    """(answered pairs, unanswered questions) from the fit part of the corpus."""
    pairs, questions = [], []
    for name in ANSWERED + UNANSWERED:
        text = (pathlib.Path(folder) / f"{name}.yml").read_text()
        for turns in yaml.safe_load(text)["conversations"]:
            if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(t, str) for t in turns[:2]):
                continue
            ask, say = (re.sub(r"\s+", " ", t).strip() for t in turns[:2])
            if not ask or not say or len(ask) > 160 or UNFIT.search(ask + " " + say) or not (ask + say).isascii():
                continue
            if name in UNANSWERED:
                questions.append(ask)
            elif len(say) < 120:
                say = say[0].upper() + say[1:]
                pairs.append((ask, say if say[-1] in ".!?\"" else say + "."))
    return pairs, sorted(set(questions))


def small_talk(path):
    """The written entries: a list of (questions, answers)."""
    return [(entry["ask"], entry["say"]) for entry in yaml.safe_load(pathlib.Path(path).read_text())]


def loosen(question, rng):
    """The question as different people would type it."""
    roll = rng.random()
    if roll < 0.2:
        question = question.lower()
    elif roll < 0.23:
        question = question.upper()
    if rng.random() < 0.25:
        question = question.rstrip("?.!")
    elif question[-1].isalnum() and rng.random() < 0.4:
        question += rng.choice([".", ".", "!", " please", ", please"])
    if rng.random() < 0.06:
        question = rng.choice(["Hi, ", "Hello! ", "Hey, ", "Folio, ", "Please, ", "So, "]) + question
    return question


def fact(rng):
    """A question with one right answer that a small child knows."""
    kind = rng.randrange(9)
    if kind == 0:
        animal, sound = rng.choice(list(SOUNDS.items()))
        return rng.choice([f"What sound does a {animal} make?", f"What does a {animal} say?", f"What does the {animal} say?"]), f"A {animal} says {sound}."
    if kind == 1:
        animal, legs = rng.choice(list(LEGS.items()))
        return f"How many legs does {data.article(animal)} have?", f"{data.article(animal).capitalize()} has {legs} legs."
    if kind == 2:
        animal, young = rng.choice(list(YOUNG.items()))
        return rng.choice([f"What is a baby {animal} called?", f"What do you call a baby {animal}?"]), f"A baby {animal} is called a {young}."
    if kind == 3:
        thing, color = rng.choice(list(COLORS.items()))
        return rng.choice([f"What color is {thing}?", f"What colour is {thing}?", f"Which color does {thing} have?"]), f"{thing.capitalize()} is {color}."
    if kind == 4:
        one, other = rng.choice(OPPOSITES.replace("\n", "").split(",")).split()
        one, other = (other, one) if rng.random() < 0.3 and other not in ("short", "old", "hard") else (one, other)
        return rng.choice([f"What is the opposite of {one}?", f"Opposite of {one}?"]), f"The opposite of {one} is {other}."
    if kind == 5:
        land, city = rng.choice(list(CAPITALS.items()))
        return rng.choice([f"What is the capital of {land}?", f"Capital of {land}?", f"Which city is the capital of {land}?"]), f"The capital of {land} is {city}."
    if kind == 6:
        names = rng.choice([DAYS, MONTHS])
        i = rng.randrange(len(names))
        unit = "day" if names is DAYS else "month"
        return rng.choice([f"What {unit} comes after {names[i]}?", f"Which {unit} is after {names[i]}?"]), f"{names[(i + 1) % len(names)]} comes after {names[i]}."
    if kind == 7:
        n = rng.randrange(0, 60)
        return rng.choice([f"What number comes after {n}?", f"What comes after {n}?"]), f"The number after {n} is {n + 1}."
    question, answer = rng.choice(list(FACTS.items()))
    return question + "?", answer


def arithmetic(rng):
    """A sum or difference of small numbers, asked in digits or words."""
    a, b = (rng.randrange(0, 11) for _ in range(2)) if rng.random() < 0.8 else (rng.randrange(0, 21) for _ in range(2))
    plus = rng.random() < 0.65
    if not plus and a < b:
        a, b = b, a
    word, sign, result = ("plus", "+", a + b) if plus else ("minus", "-", a - b)
    x, y = (NUMBERS[a], NUMBERS[b]) if a < 11 and b < 11 and rng.random() < 0.2 else (a, b)
    ask = rng.choice([f"What is {x} {word} {y}?", f"What is {x} {word} {y}?", f"How much is {x} {word} {y}?", f"{x} {word} {y}", f"What is {a} {sign} {b}?",
                      f"{a}{sign}{b}", f"{a} {sign} {b} =", f"{a}{sign}{b}=?", f"Calculate {a} {sign} {b}"])
    return ask, f"{a} {word} {b} is {result}."


class Conversations:
    """Draws conversations. `stories` are those of one split, so that held-out stories stay unseen."""

    def __init__(self, stories, small_talk_path, chatterbot_folder, longest=900):
        self.talk = small_talk(small_talk_path)
        self.pairs, self.questions = chatterbot(chatterbot_folder)
        self.stories = [s for s in stories if len(s) <= longest]
        self.by_topic, self.by_hero = {}, {}
        for index, story in enumerate(self.stories):
            for topic in data.topics_of(story)[:3]:
                self.by_topic.setdefault(topic, []).append(index)
            hero = data.hero_of(story)
            if hero:
                self.by_hero.setdefault(hero[0], []).append(index)
        self.topics = sorted(self.by_topic)
        self.topic_weights = [len(self.by_topic[t]) ** 0.5 for t in self.topics]
        self.animal_stories = [i for i, s in enumerate(self.stories) if data.main_animal(s)]

    def story(self, rng):
        """A request for a story and a story that honours it."""
        roll = rng.random()
        if roll < 0.12:
            return rng.choice(PLAIN_ASKS), data.vary(rng.choice(self.stories), rng)
        if roll < 0.42:
            story = self.stories[rng.choice(self.animal_stories)]
            return self._asked_about(data.swap_animal(story, rng), rng)
        if roll < 0.60:
            story = data.vary(self.stories[rng.choice(self.by_hero[rng.choice(["girl", "boy"])])], rng)
            return self._asked_about(data.hero_to_animal(story, rng) if rng.random() < 0.6 else story, rng)
        topic = rng.choices(self.topics, self.topic_weights)[0]
        return self._asked_about(data.rename_hero(self.stories[rng.choice(self.by_topic[topic])], rng), rng, topic)

    def _asked_about(self, story, rng, topic=None):
        topics, hero = data.topics_of(story), data.hero_of(story)
        topic = topic or data.main_animal(story) or (hero[0] if hero else None) or (topics[0] if topics else None)
        if topic is None:
            return rng.choice(PLAIN_ASKS), story
        subject = data.article(topic)
        roll = rng.random()
        if hero and hero[0] == topic and roll < 0.25:
            subject += f" named {hero[1]}"
        elif hero and roll < 0.32:
            subject = hero[1]
        elif roll < 0.40 and re.search(rf"\blittle {topic}\b", story):
            subject = "a little " + topic
        elif roll < 0.50 and len(topics) > 1 and topics[0] != topics[1] and topic in topics[:2]:
            other = topics[1] if topics[0] == topic else topics[0]
            subject += " and " + data.article(other)
        elif roll < 0.55:
            subject = "the " + topic
        elif roll < 0.60 and topic + "s" in story:
            subject = topic + "s"
        return rng.choice(STORY_ASKS).format(subject), story

    def unknown(self, rng):
        if rng.random() < 0.6:
            ask = rng.choice(self.questions)
        else:
            words = UNKNOWN_WORDS.replace("\n", "").split(",")
            ask = rng.choice(UNKNOWN).replace("{}", rng.choice(words))
        return ask, rng.choice(FALLBACK)

    def exchange(self, rng):
        """One question and its answer."""
        roll = rng.random()
        if roll < 0.44:
            return self.story(rng)
        if roll < 0.72:
            asks, says = rng.choice(self.talk)
            return rng.choice(asks), rng.choice(says)
        if roll < 0.80:
            return fact(rng)
        if roll < 0.88:
            return arithmetic(rng)
        if roll < 0.91:
            return rng.choice(self.pairs)
        return self.unknown(rng)

    def names(self, rng):
        """Somebody tells their name, and may ask for it later."""
        name = rng.choice(data.GIRLS + data.BOYS).capitalize()
        ask = rng.choice(["My name is {}", "My name is {}.", "I am {}", "Hello, my name is {}", "Hi, I'm {}", "Call me {}", "I am called {}"]).format(name)
        turns = [(ask, rng.choice([f"Nice to meet you, {name}! I am Folio.", f"Hello, {name}! It is nice to meet you."]))]
        if rng.random() < 0.5:
            turns.append(self.exchange(rng))
        if rng.random() < 0.7:
            turns.append((rng.choice(["What is my name?", "Do you know my name?", "Who am I?"]), f"Your name is {name}."))
        return turns

    def conversation(self, rng):
        """A list of (role, text): perhaps a system message, then questions and answers in turn."""
        if rng.random() < 0.04:
            turns = self.names(rng)
        elif rng.random() < 0.02:
            turns = [(rng.choice(["What is my name?", "Do you know my name?", "Who am I?"]), "You have not told me your name yet.")]
        else:
            turns = [self.exchange(rng) for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3, 4]))]
        messages = [("system", rng.choice(SYSTEMS))] if rng.random() < 0.12 else []
        for ask, say in turns:
            messages += [("user", loosen(ask, rng).strip()), ("assistant", say)]
        return messages
