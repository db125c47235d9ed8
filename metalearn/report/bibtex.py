"""BibTeX of the methods and data sets that a table is about."""

from collections.abc import Iterable, Sequence

from metalearn.report.results import Row

_ICLR = "International Conference on Learning Representations"
_NEURIPS = "Advances in Neural Information Processing Systems"
_CVPR = "Conference on Computer Vision and Pattern Recognition"
_CVPR_WORKSHOPS = "CVPR Workshops"
_ECCV = "European Conference on Computer Vision"
_ICML = "International Conference on Machine Learning"
_TMLR = "Transactions on Machine Learning Research"
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
        "booktitle": _NEURIPS, "volume": "30", "pages": "4077--4087", "year": "2017", "eprint": "1703.05175",
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
    "mcmahan2017communication": ("inproceedings", {  # FedSGD, FedAvg
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
    "reddi2021fedopt": ("inproceedings", {  # FedAdagrad, FedAdam, FedYogi
        "author": "Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and Rush, Keith and "
        "Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan",
        "title": "Adaptive Federated Optimization",
        "booktitle": _ICLR, "year": "2021", "eprint": "2003.00295",
    }),
    "hsu2019fedavgm": ("misc", {  # and partitions by a Dirichlet distribution
        "author": "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
        "title": "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
        "year": "2019", "eprint": "1909.06335",
    }),
    "karimireddy2020scaffold": ("inproceedings", {
        "author": "Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank J. and "
        "Stich, Sebastian U. and Suresh, Ananda Theertha",
        "title": "{SCAFFOLD}: Stochastic Controlled Averaging for Federated Learning",
        "booktitle": "Proceedings of the 37th International Conference on Machine Learning",
        "series": _PMLR, "volume": "119", "pages": "5132--5143", "year": "2020", "eprint": "1910.06378",
    }),
    "wang2020fednova": ("inproceedings", {
        "author": "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. Vincent",
        "title": "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
        "booktitle": _NEURIPS, "volume": "33", "pages": "7611--7623", "year": "2020", "eprint": "2007.07481",
    }),
    "acar2021feddyn": ("inproceedings", {
        "author": "Acar, Durmus Alp Emre and Zhao, Yue and {Matas Navarro}, Ramon and Mattina, Matthew and "
        "Whatmough, Paul N. and Saligrama, Venkatesh",
        "title": "Federated Learning Based on Dynamic Regularization",
        "booktitle": _ICLR, "year": "2021", "eprint": "2111.04263",
    }),
    "karimireddy2021mime": ("inproceedings", {  # on arXiv: Mime, mimicking centralized stochastic algorithms
        "author": "Karimireddy, Sai Praneeth and Jaggi, Martin and Kale, Satyen and Mohri, Mehryar and "
        "Reddi, Sashank J. and Stich, Sebastian U. and Suresh, Ananda Theertha",
        "title": "Breaking the Centralized Barrier for Cross-Device Federated Learning",
        "booktitle": _NEURIPS, "volume": "34", "pages": "28663--28676", "year": "2021", "eprint": "2008.03606",
    }),
    "mohri2019agnostic": ("inproceedings", {
        "author": "Mohri, Mehryar and Sivek, Gary and Suresh, Ananda Theertha",
        "title": "Agnostic Federated Learning",
        "booktitle": "Proceedings of the 36th International Conference on Machine Learning",
        "series": _PMLR, "volume": "97", "pages": "4615--4625", "year": "2019", "eprint": "1902.00146",
    }),
    "li2020qffl": ("inproceedings", {
        "author": "Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith, Virginia",
        "title": "Fair Resource Allocation in Federated Learning",
        "booktitle": _ICLR, "year": "2020", "eprint": "1905.10497",
    }),
    "lin2020feddf": ("inproceedings", {
        "author": "Lin, Tao and Kong, Lingjing and Stich, Sebastian U. and Jaggi, Martin",
        "title": "Ensemble Distillation for Robust Model Fusion in Federated Learning",
        "booktitle": _NEURIPS, "volume": "33", "pages": "2351--2363", "year": "2020", "eprint": "2006.07242",
    }),
    "fallah2020perfedavg": ("inproceedings", {
        "author": "Fallah, Alireza and Mokhtari, Aryan and Ozdaglar, Asuman",
        "title": "Personalized Federated Learning with Theoretical Guarantees: {A} Model-Agnostic Meta-Learning "
        "Approach",
        "booktitle": _NEURIPS, "volume": "33", "pages": "3557--3568", "year": "2020", "eprint": "2002.07948",
    }),
    "dinh2020pfedme": ("inproceedings", {
        "author": "Dinh, Canh T. and Tran, Nguyen H. and Nguyen, Tuan Dung",
        "title": "Personalized Federated Learning with {Moreau} Envelopes",
        "booktitle": _NEURIPS, "volume": "33", "pages": "21394--21405", "year": "2020", "eprint": "2006.08848",
    }),
    "li2021ditto": ("inproceedings", {
        "author": "Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia",
        "title": "Ditto: Fair and Robust Federated Learning Through Personalization",
        "booktitle": "Proceedings of the 38th International Conference on Machine Learning",
        "series": _PMLR, "volume": "139", "pages": "6357--6368", "year": "2021", "eprint": "2012.04221",
    }),
    "deng2020apfl": ("misc", {
        "author": "Deng, Yuyang and Kamani, Mohammad Mahdi and Mahdavi, Mehrdad",
        "title": "Adaptive Personalized Federated Learning",
        "year": "2020", "eprint": "2003.13461",
    }),
    "arivazhagan2019fedper": ("misc", {
        "author": "Arivazhagan, Manoj Ghuhan and Aggarwal, Vinay and Singh, Aaditya Kumar and Choudhary, Sunav",
        "title": "Federated Learning with Personalization Layers",
        "year": "2019", "eprint": "1912.00818",
    }),
    "collins2021fedrep": ("inproceedings", {
        "author": "Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai, Sanjay",
        "title": "Exploiting Shared Representations for Personalized Federated Learning",
        "booktitle": "Proceedings of the 38th International Conference on Machine Learning",
        "series": _PMLR, "volume": "139", "pages": "2089--2099", "year": "2021", "eprint": "2102.07078",
    }),
    "li2021fedbn": ("inproceedings", {
        "author": "Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael and Dou, Qi",
        "title": "{FedBN}: Federated Learning on Non-{IID} Features via Local Batch Normalization",
        "booktitle": _ICLR, "year": "2021", "eprint": "2102.07623",
    }),
    "ghosh2020ifca": ("inproceedings", {  # and rotated MNIST with clients of four angles
        "author": "Ghosh, Avishek and Chung, Jichan and Yin, Dong and Ramchandran, Kannan",
        "title": "An Efficient Framework for Clustered Federated Learning",
        "booktitle": _NEURIPS, "volume": "33", "pages": "19586--19597", "year": "2020", "eprint": "2006.04088",
    }),
    "mansour2020hypcluster": ("misc", {
        "author": "Mansour, Yishay and Mohri, Mehryar and Ro, Jae and Suresh, Ananda Theertha",
        "title": "Three Approaches for Personalization with Applications to Federated Learning",
        "year": "2020", "eprint": "2002.10619",
    }),
    "cho2020powerofchoice": ("misc", {
        "author": "Cho, Yae Jee and Wang, Jianyu and Joshi, Gauri",
        "title": "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection "
        "Strategies",
        "year": "2020", "eprint": "2010.01243",
    }),
    "caldas2018leaf": ("misc", {
        "author": "Caldas, Sebastian and Duddu, Sai Meher Karthik and Wu, Peter and Li, Tian and "
        "Kone{\\v{c}}n{\\'y}, Jakub and McMahan, H. Brendan and Smith, Virginia and Talwalkar, Ameet",
        "title": "{LEAF}: A Benchmark for Federated Settings",
        "year": "2018", "eprint": "1812.01097",
    }),
    "lake2015human": ("article", {
        "author": "Lake, Brenden M. and Salakhutdinov, Ruslan and Tenenbaum, Joshua B.",
        "title": "Human-level concept learning through probabilistic program induction",
        "journal": "Science", "volume": "350", "number": "6266", "pages": "1332--1338", "year": "2015",
        "doi": "10.1126/science.aab3050",
    }),
    "kendall2018uncertainty": ("inproceedings", {
        "author": "Kendall, Alex and Gal, Yarin and Cipolla, Roberto",
        "title": "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
        "booktitle": _CVPR, "year": "2018", "eprint": "1705.07115",
    }),
    "liu2021imtl": ("inproceedings", {
        "author": (
            "Liu, Liyang and Li, Yi and Kuang, Zhanghui and Xue, Jing-Hao and Chen, Yimin and Yang, "
            "Wenming and Liao, Qingmin and Zhang, Wayne"
        ),
        "title": "Towards Impartial Multi-Task Learning",
        "booktitle": _ICLR, "year": "2021",
    }),
    "liu2019mtan": ("inproceedings", {
        "author": "Liu, Shikun and Johns, Edward and Davison, Andrew J.",
        "title": "End-to-End Multi-Task Learning with Attention",
        "booktitle": _CVPR, "year": "2019", "eprint": "1803.10704",
    }),
    "lin2022rlw": ("article", {
        "author": "Lin, Baijiong and Ye, Feiyang and Zhang, Yu and Tsang, Ivor W.",
        "title": "Reasonable Effectiveness of Random Weighting: {A} Litmus Test for Multi-Task Learning",
        "journal": _TMLR, "year": "2022", "eprint": "2111.10603",
    }),
    "chennupati2019multinet": ("inproceedings", {
        "author": "Chennupati, Sumanth and Sistu, Ganesh and Yogamani, Senthil and Rawashdeh, Samir A.",
        "title": (
            "{MultiNet++}: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task "
            "Learning"
        ),
        "booktitle": _CVPR_WORKSHOPS, "year": "2019", "eprint": "1904.08492",
    }),
    "guo2018dtp": ("inproceedings", {
        "author": "Guo, Michelle and Haque, Albert and Huang, De-An and Yeung, Serena and Fei-Fei, Li",
        "title": "Dynamic Task Prioritization for Multitask Learning",
        "booktitle": _ECCV, "year": "2018",
    }),
    "lin2024stch": ("inproceedings", {
        "author": "Lin, Xi and Zhang, Xiaoyuan and Yang, Zhiyuan and Liu, Fei and Wang, Zhenkun and Zhang, Qingfu",
        "title": "Smooth {Tchebycheff} Scalarization for Multi-Objective Optimization",
        "booktitle": _ICML, "year": "2024", "eprint": "2402.19078",
    }),
    "liu2023famo": ("inproceedings", {
        "author": "Liu, Bo and Feng, Yihao and Stone, Peter and Liu, Qiang",
        "title": "{FAMO}: Fast Adaptive Multitask Optimization",
        "booktitle": _NEURIPS, "year": "2023", "eprint": "2306.03792",
    }),
    "chen2018gradnorm": ("inproceedings", {
        "author": "Chen, Zhao and Badrinarayanan, Vijay and Lee, Chen-Yu and Rabinovich, Andrew",
        "title": "{GradNorm}: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
        "booktitle": _ICML, "year": "2018", "eprint": "1711.02257",
    }),
    "sener2018mgda": ("inproceedings", {
        "author": "Sener, Ozan and Koltun, Vladlen",
        "title": "Multi-Task Learning as Multi-Objective Optimization",
        "booktitle": _NEURIPS, "year": "2018", "eprint": "1810.04650",
    }),
    "yu2020pcgrad": ("inproceedings", {
        "author": (
            "Yu, Tianhe and Kumar, Saurabh and Gupta, Abhishek and Levine, Sergey and Hausman, Karol "
            "and Finn, Chelsea"
        ),
        "title": "Gradient Surgery for Multi-Task Learning",
        "booktitle": _NEURIPS, "year": "2020", "eprint": "2001.06782",
    }),
    "wang2021gradvac": ("inproceedings", {
        "author": "Wang, Zirui and Tsvetkov, Yulia and Firat, Orhan and Cao, Yuan",
        "title": (
            "Gradient Vaccine: {I}nvestigating and Improving Multi-Task Optimization in Massively "
            "Multilingual Models"
        ),
        "booktitle": _ICLR, "year": "2021", "eprint": "2010.05874",
    }),
    "chen2020graddrop": ("inproceedings", {
        "author": (
            "Chen, Zhao and Ngiam, Jiquan and Huang, Yanping and Luong, Thang and Kretzschmar, Henrik "
            "and Chai, Yuning and Anguelov, Dragomir"
        ),
        "title": "Just Pick a Sign: {O}ptimizing Deep Multitask Models with Gradient Sign Dropout",
        "booktitle": _NEURIPS, "year": "2020", "eprint": "2010.06808",
    }),
    "liu2021cagrad": ("inproceedings", {
        "author": "Liu, Bo and Liu, Xingchao and Jin, Xiaojie and Stone, Peter and Liu, Qiang",
        "title": "Conflict-Averse Gradient Descent for Multi-Task Learning",
        "booktitle": _NEURIPS, "year": "2021", "eprint": "2110.14048",
    }),
    "navon2022nash": ("inproceedings", {
        "author": (
            "Navon, Aviv and Shamsian, Aviv and Achituve, Idan and Maron, Haggai and Kawaguchi, Kenji "
            "and Chechik, Gal and Fetaya, Ethan"
        ),
        "title": "Multi-Task Learning as a Bargaining Game",
        "booktitle": _ICML, "year": "2022", "eprint": "2202.01017",
    }),
    "senushkin2023aligned": ("inproceedings", {
        "author": "Senushkin, Dmitry and Patakin, Nikolay and Kuznetsov, Arseny and Konushin, Anton",
        "title": "Independent Component Alignment for Multi-Task Learning",
        "booktitle": _CVPR, "year": "2023", "eprint": "2305.19000",
    }),
    "quinton2024upgrad": ("misc", {
        "author": "Quinton, Pierre and Rey, Val{\\'e}rian",
        "title": "Jacobian Descent for Multi-Objective Optimization",
        "year": "2024", "eprint": "2406.16232",
    }),
    "lopezpaz2017gem": ("inproceedings", {
        "author": "Lopez-Paz, David and Ranzato, Marc'Aurelio",
        "title": "Gradient Episodic Memory for Continual Learning",
        "booktitle": _NEURIPS, "year": "2017", "eprint": "1706.08840",
    }),
    "liu2025config": ("inproceedings", {
        "author": "Liu, Qiang and Chu, Mengyu and Thuerey, Nils",
        "title": "{ConFIG}: Towards Conflict-Free Training of Physics Informed Neural Networks",
        "booktitle": _ICLR, "year": "2025", "eprint": "2408.11104",
    }),
    "ban2024fairgrad": ("inproceedings", {
        "author": "Ban, Hao and Ji, Kaiyi",
        "title": "Fair Resource Allocation in Multi-Task Learning",
        "booktitle": _ICML, "year": "2024", "eprint": "2402.15638",
    }),
    "he2024excess": ("inproceedings", {
        "author": "He, Yifei and Zhou, Shiji and Zhang, Guojun and Yun, Hyokun and Xu, Yi and Zeng, Belinda and "
        "Chilimbi, Trishul and Zhao, Han",
        "title": "Robust Multi-Task Learning with Excess Risks",
        "booktitle": _ICML, "year": "2024", "eprint": "2402.02009",
    }),
    "fernando2023moco": ("inproceedings", {
        "author": (
            "Fernando, Heshan and Shen, Han and Liu, Miao and Chaudhury, Subhajit and Murugesan, "
            "Keerthiram and Chen, Tianyi"
        ),
        "title": "Mitigating Gradient Bias in Multi-Objective Learning: {A} Provably Convergent Approach",
        "booktitle": _ICLR, "year": "2023",
    }),
    "liu2022autolambda": ("article", {
        "author": "Liu, Shikun and James, Stephen and Davison, Andrew J. and Johns, Edward",
        "title": "{Auto-Lambda}: Disentangling Dynamic Task Relationships",
        "journal": _TMLR, "year": "2022", "eprint": "2202.03091",
    }),
    "xiao2023sdmgrad": ("inproceedings", {
        "author": "Xiao, Peiyao and Ban, Hao and Ji, Kaiyi",
        "title": "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms",
        "booktitle": _NEURIPS, "year": "2023", "eprint": "2305.18409",
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
