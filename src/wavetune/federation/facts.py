"""What parts of a method may need of each other: the facts that a part here takes away and another relies on."""

from wavetune.parts import Fact

CUT = Fact("a cut through the model")
ADAPTERS = Fact("adapters that cross the air")
WHOLE_MODEL = Fact("the whole model on every client")
UNTOUCHED = Fact("a pass through the whole model without adapters beside the one that learns")
ONE_CUT = Fact("one cut for all clients", "set method.topology.cut to one number")
ONE_RANK = Fact("one rank for all clients", "set method.lora.rank to one number")
AT_ONCE = Fact(
    "a server that serves all clients at once", "set method.topology.kind=split with method.topology.schedule=parallel"
)
CLIENTS = Fact("clients that train")
SERVERS_MODEL = Fact("the servers' model on every client", "set method.client_model=null")
NEW_PLANS = Fact("a plan of its own for every round", "set method.replan=every_round")
VALUES_SENT = Fact("updates sent as the values themselves (changes of what it has are of no use to it)")
BOTH_FACTORS = Fact("both factors of shared LoRA sent", "set method.sharing.factors=both")
EVERY_FACTOR = Fact("both factors of LoRA trained and sent in every round")
UPDATES_ALONE = Fact("updates of clients to be all that is learned from their data")
INDIVIDUAL = Fact("every client's update by itself (only their sum is heard)")
BY_SERVER = Fact("a server that updates are sent to")
COMMON_START = Fact("clients and server to have started the round from the same adapters")
ONE_MIXTURE = Fact("one mixture of all updates")
MEAN = Fact("a mean of the updates (it counts the noise of one)")
NUMBERS_ALONE = Fact(
    "messages of numbers alone, without codes or places beside them", "put it before what writes these", onwards=True
)
UNROUNDED = Fact("updates that are not rounded one by one")
COUNTED_ONCE = Fact("every update to be mixed once", "set method.link.lost=skip")
UNJUDGED = Fact("updates not judged by the others (clipping bounds them already)")
KEPT_LORA = Fact("LoRA that clients keep", "take 'lora' out of method.sharing.shared and give method.lora a rank")
PRIVATE_LORA = Fact(
    "LoRA that clients do not share (it is trained as each owner wishes)",
    "take 'lora' out of method.sharing.shared, or set method.alignment.learning.steps=0 to evaluate only",
)
