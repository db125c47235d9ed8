"""BibTeX of the methods and data sets that a table is about."""

from collections.abc import Iterable, Sequence

from metalearn.report.results import Row

_ICLR = "International Conference on Learning Representations"
_PMLR = "Proceedings of Machine Learning Research"

# key -> (kind, fields)
ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "finn2017maml": ("inproceedings", {  # MAML, FOMAML, and the sinusoid tasks
        "author": "Finn, Chelsea and Abbeel, Pieter and Levine, Sergey",
        "title": "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
        "booktitle": "Proceedings of the 34th International Conference on Machine Learning",
        "series": _PMLR, "volume": "70", "pages": "1126--1135", "year": "2017", "eprint": "1703.03400",
    }),
    "raghu2020anil": ("inproceedings", {
        "author": "Raghu, Aniruddh and Raghu, Maithra and Bengio, Samy and Vinyals, Oriol",
        "title": "Rapid Learning or Feature Reuse? {T}owards Understanding the Effectiveness of {MAML}",
        "booktitle": _ICLR, "year": "2020", "eprint": "1909.09157",
    }),
    "li2017metasgd": ("misc", {
        "author": "Li, Zhenguo and Zhou, Fengwei and Chen, Fei and Li, Hang",
        "title": "{Meta-SGD}: Learning to Learn Quickly for Few-Shot Learning",
        "year": "2017", "eprint": "1707.09835",
    }),
    "nichol2018reptile": ("misc", {
        "author": "Nichol, Alex and Achiam, Joshua and Schulman, John",
        "title": "On First-Order Meta-Learning Algorithms",
        "year": "2018", "eprint": "1803.02999",
    }),
    "snell2017prototypical": ("inproceedings", {
        "author": "Snell, Jake and Swersky, Kevin and Zemel, Richard",
        "title": "Prototypical Networks for Few-shot Learning",
        "booktitle": "Advances in Neural Information Processing Systems",
        "volume": "30", "pages": "4077--4087", "year": "2017", "eprint": "1703.05175",
    }),
    "antoniou2019train": ("inproceedings", {
        "author": "Antoniou, Antreas and Edwards, Harrison and Storkey, Amos",
        "title": "How to Train Your {MAML}",
        "booktitle": _ICLR, "year": "2019", "eprint": "1810.09502",
    }),
    "chen2019closer": ("inproceedings", {
        "author": "Chen, Wei-Yu and Liu, Yen-Cheng and Kira, Zsolt and Wang, Yu-Chiang Frank and Huang, Jia-Bin",
        "title": "A Closer Look at Few-shot Classification",
        "booktitle": _ICLR, "year": "2019", "eprint": "1904.04232",
    }),
    "mcmahan2017communication": ("inproceedings", {
        "author": "McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
        "{Ag{\\\"u}era y Arcas}, Blaise",
        "title": "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "booktitle": "Proceedings of the 20th International Conference on Artificial Intelligence and Statistics",
        "series": _PMLR, "volume": "54", "pages": "1273--1282", "year": "2017", "eprint": "1602.05629",
    }),
    "li2020fedprox": ("inproceedings", {
        "author": "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and Talwalkar, Ameet and "
        "Smith, Virginia",
        "title": "Federated Optimization in Heterogeneous Networks",
        "booktitle": "Proceedings of Machine Learning and Systems",
        "volume": "2", "pages": "429--450", "year": "2020", "eprint": "1812.06127",
    }),
    "lake2015human": ("article", {
        "author": "Lake, Brenden M. and Salakhutdinov, Ruslan and Tenenbaum, Joshua B.",
        "title": "Human-level concept learning through probabilistic program induction",
        "journal": "Science", "volume": "350", "number": "6266", "pages": "1332--1338", "year": "2015",
        "doi": "10.1126/science.aab3050",
    }),
}  # fmt: skip

DATA = {"omniglot": "lake2015human", "sinusoid": "finn2017maml"}  # by the part of a protocol before its first slash


def entry(key: str) -> str:
    """One entry; a key that is not in `ENTRIES` gives a comment, so that a missing reference is seen."""
    if key not in ENTRIES:
        return f"% {key}: no entry is known; add your own.\n"
    kind, fields = ENTRIES[key]
    if "eprint" in fields:
        fields = fields | {"archiveprefix": "arXiv", "url": f"https://arxiv.org/abs/{fields['eprint']}"}
    return f"@{kind}{{{key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items()) + "}\n"


def keys(rows: Sequence[Row]) -> list[str]:
    """The keys of the methods and data sets of some rows, each once, in the order in which they come."""
    found = [row.cite for row in rows if row.cite]
    data = [DATA[name] for name in (row.protocol.partition("/")[0] for row in rows) if name in DATA]
    return list(dict.fromkeys(found + data))


def bibliography(names: Iterable[str]) -> str:
    """The text of a `.bib` file."""
    return "\n".join(entry(name) for name in names)
