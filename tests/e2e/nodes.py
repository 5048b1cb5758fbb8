"""A Ray cluster of several nodes on this machine, told what to do by lines of standard input."""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    """Starts a head and one node, and prints the address; each `add` or `remove` changes them."""
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "num_gpus": 0}
    )
    nodes = [cluster.add_node(**NODE)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "add\n":
            nodes.append(cluster.add_node(**NODE))
        else:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
