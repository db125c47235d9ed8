"""What every experiment can be told. Imports no JAX, so that a command line answers at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FewShot:
    """Training, adaptation and evaluation of one method, or of several on the same tasks."""

    method: str = "maml"
    """maml, fomaml, anil, meta_sgd, reptile, protonet, finetune, scratch, or your own as some.module:function."""
    beside: tuple[str, ...] = ()
    """Further methods, trained alike, tested on the same tasks and shown beside it."""
    ways: int = 1
    """Classes of a training task."""
    shots: int = 10
    """Support examples (a class) in a training task."""
    queries: int = 10
    """Query examples (a class) in a training task."""
    tasks: int = 25
    """Tasks in a meta-batch."""
    steps: int = 70_000
    """Outer steps."""
    outer: str = "adam"
    """Outer optimizer: adam or sgd."""
    outer_rate: float = 1e-3
    outer_decay: str = "none"
    """none, linear (to 0 over the run) or halving (every `halve_every` steps)."""
    halve_every: int = 2_000
    inner: str = "sgd"
    """Inner optimizer: sgd, or adam with b1=0."""
    inner_rate: float = 0.01
    """Inner learning rate on the mean loss."""
    inner_steps: int = 1
    inner_batch: int | None = None
    """Examples an inner training step; none uses the whole support set."""
    test_ways: tuple[int, ...] = ()
    """Ways of the test tasks; by default those of training."""
    test_shots: tuple[int, ...] = ()
    """Shots of the test tasks; by default those of training. The first chooses the checkpoint."""
    test_queries: int = 10
    """Query examples (a class) in a test task; it matters where evaluation is transductive."""
    test_tasks: int = 600
    test_steps: tuple[int, ...] = (0, 1, 2, 3, 5, 10)
    """Numbers of adaptation steps to report."""
    validation_steps: int = 1
    """Adaptation steps after which validation tasks choose the checkpoint."""
    test_batch: int | None = None
    """Examples an inner step at test; none uses the whole support set."""
    tuned_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Inner rates among which validation tasks choose, for the baselines finetune and scratch."""
    transductive: bool = True
    """Whether batch normalisation may see several queries at once."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds; several are trained at once."""
    validate_every: int = 10_000
    validation_tasks: int = 200
    log_every: int = 500
    devices: int = 1
    """Devices among which the tasks of a training step are spread; several on a CPU are its cores."""
    folder: str = "runs/few-shot"
    """Where everything of the run goes."""


@dataclass(frozen=True)
class Federation:
    """Who the clients are, how they train, and which algorithms are compared on them."""

    methods: tuple[str, ...] = ("fedavg",)
    """Names of algorithms, or your own as some.module:function."""
    partition: str = "iid"
    """iid, shards, dirichlet, quantity, or rotation (iid, each client's images turned by quarter turns)."""
    concentration: float = 0.1
    """Of dirichlet and quantity: small is uneven."""
    clients: int = 100
    validation_clients: int = 0
    """Of all clients, those that never train, and choose the rate; none: every client's own validation examples do."""
    test_clients: int = 0
    """Of all clients, those that never train, and are tested; none: every client is, on its test examples."""
    cohort: int = 10
    """Clients a round; of poisson sampling, on average."""
    sampling: str = "uniform"
    """uniform, or poisson (everybody by itself)."""
    candidates: int | None = None
    """Clients sampled for a round, of whom those with the largest losses are its cohort (power of choice)."""
    max_examples: int | None = None
    """The most that a client shows in a round, drawn at random; by default all it has."""
    dropout: float = 0.0
    """The chance that a sampled client does not answer."""
    by_size: bool = False
    """Put a cohort's clients in the order of their sizes, so that those trained side by side are alike."""
    drop_nonfinite: bool = False
    """Leave out updates that are not finite, and count them, instead of stopping."""
    epochs: int = 1
    """Passes over a client's examples in a round (E)."""
    batch: int | None = 10
    """Examples a local step (B); none uses all of a client's."""
    rates: tuple[float, ...] = (0.1,)
    """Client learning rates; of several, validation chooses, for each algorithm by itself."""
    decay: float = 1.0
    """The clients' rate of round t is the rate times decay to the power of t."""
    late: float = 0.0
    """The chance that a client does only some of its epochs; FedAvg drops it then, all others keep what it did."""
    choose_by: str = "accuracy"
    """What chooses the rate: accuracy after the last round, or rounds to the target, both in validation."""
    server_rate: float | None = None
    """The server's, where the algorithm has one; by default a value of its own."""
    clusters: int = 4
    """Models of ifca."""
    strength: float | None = None
    """Of an algorithm's own term (FedProx's mu, Ditto's lambda, q-FFL's q, …); by default a value of its own."""
    rounds: int = 100
    every: int = 1
    """Rounds between evaluations."""
    target: float | None = None
    """The accuracy to which rounds are counted."""
    public: float = 0.05
    """The share of training examples that no client has: the server's, for distillation and transfer."""
    test_share: float = 0.2
    """The share of each client's examples that it is tested on; as many again are for validation."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds, trained at once; the partition stays."""
    data_seed: int = 0
    """Of the partition."""
    devices: int = 1
    """Clients are spread over so many devices, which changes no number; on a CPU, its cores."""
    folder: str = "runs/federated"
    """Where everything of the run goes."""


@dataclass(frozen=True)
class MultiTask:
    """How several tasks are learned together, by which methods, and how these are compared."""

    methods: tuple[str, ...] = ("single", "equal")
    """Names of methods, single (a model a task) among them, or your own as some.module:function."""
    rates: tuple[float, ...] = (1e-3,)
    """Learning rates; of several, validation chooses, for each method by itself."""
    optimizer: str = "adam"
    """adam, or sgd with momentum .9."""
    decay: float = 1.0
    """The rate is multiplied by this every decay_every epochs."""
    decay_every: int = 10
    epochs: int = 20
    probe: int | None = None
    """Epochs of runs of the first seed that choose rates and options; by default whole runs of all seeds choose."""
    batch: int = 64
    at: str = "params"
    """Where gradient methods look: params, or features (the gradient of the shared representation)."""
    every: int = 1
    """Steps between new weights, of methods that weigh."""
    validation: float = 0.2
    """The share of examples, besides test, that chooses."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds, trained at once; the data stay."""
    data_seed: int = 0
    """Of the split."""
    folder: str = "runs/multitask"
    """Where everything of the run goes."""


@dataclass(frozen=True)
class Alphabets:
    """How tasks with examples of their own are learned together, and what they are compared with."""

    methods: tuple[str, ...] = ("single", "equal")
    """single (a network a task), equal (one trunk, the mean gradient), or one trunk by an aggregator of
    metalearn.aggregate that needs no argument, such as upgrad, or your own as some.module:function."""
    rates: tuple[float, ...] = (1e-3,)
    """Learning rates; of several, validation chooses, for each method by itself."""
    steps: int = 4_000
    cohort: int = 5
    """Tasks a step."""
    batch: int = 32
    """Examples of a task a step."""
    sampling: str = "uniform"
    """uniform, or size (chances in proportion to examples, or to their power 1 / temperature)."""
    temperature: float = 1.0
    alphabets: int = 20
    """Of the fifty, chosen by data_seed."""
    filters: int = 32
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds, trained at once; the split stays."""
    data_seed: int = 0
    """Of the alphabets and the split."""
    folder: str = "runs/omniglot_alphabets"
    """Where everything of the run goes."""
