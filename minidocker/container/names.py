"""Names for containers that nobody named: an adjective and the surname of someone who built or thought."""

import os

ADJECTIVES = (
    "amber brave brisk calm candid cheerful clever cosmic crisp curious daring dreamy eager earnest elastic eloquent "
    "epic fearless festive focused friendly gallant gentle gifted graceful happy hardy honest hopeful humble jolly "
    "keen kind lively lucid merry modest mystic nimble nifty noble patient peaceful pensive playful quirky quiet "
    "relaxed serene sharp silent sincere steady stoic sunny suspicious tender trusting upbeat vibrant vigilant warm "
    "wise witty wonderful youthful zealous zen"
).split()
SURNAMES = (
    "abel allen archimedes babbage bardeen bell bohr boole borg brahmagupta cerf chandrasekhar church curie darwin "
    "dijkstra diffie einstein engelbart euclid euler faraday fermat feynman franklin galileo galois gauss germain "
    "goedel goldberg goodall hamilton hawking heisenberg hellman hertz hopper hypatia jang johnson joliot kalam "
    "kepler khorana kirch knuth kowalevski lamarr lamport leavitt liskov lovelace maxwell mccarthy mendel mirzakhani "
    "moore morse nash neumann newton nobel noether pascal pasteur perlman planck poincare ramanujan raman ride "
    "ritchie sejong shamir shannon sinoussi spence stallman swartz tesla thompson torvalds turing wiles wilson wozniak"
).split()


def random_name(attempt: int = 0) -> str:
    """Return a name such as `patient_lovelace`; from the second attempt on with a digit, as the plain ones run out."""
    adjective, surname, digit = os.urandom(3)  # `random` takes 2 ms to import
    name = f"{ADJECTIVES[adjective % len(ADJECTIVES)]}_{SURNAMES[surname % len(SURNAMES)]}"
    return f"{name}{digit % 10}" if attempt else name
