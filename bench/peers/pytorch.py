"""The measured work in plain PyTorch on CUDA: a peer of bench/peers/run.ts, which starts it and talks to it.

Requests are lines of JSON on stdin, replies lines of JSON on stdout: open, prepare, measure, release. `prepare` names a
folder with work.json (what, sizes, matrices by name) and data.bin (f32, row-major). Our own code, with no other
dependency than PyTorch. Modes: eager (f32), autocast (fp16 autocast, as the official code samples), compile (torch.compile
under the same autocast, linear layers' weights in fp16 from the start).
"""

import argparse
import contextlib
import json
import os
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None


def layer_norm(x, weight=None, bias=None):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)


class Network:
    """eMIGM by its official parameter names; matrices as PyTorch has them, [outputs, inputs]."""

    def __init__(self, config, parameters):
        self.config = config
        self.parameters = parameters

    def linear(self, x, name):
        return F.linear(x, self.parameters[name + ".weight"], self.parameters[name + ".bias"])

    def norm(self, x, name):
        return layer_norm(x, self.parameters[name + ".weight"], self.parameters[name + ".bias"])

    def block(self, x, name, heads):
        """The pre-norm block of ViT. x [batch, tokens, width]"""
        batch, tokens, width = x.shape
        qkv = self.linear(self.norm(x, name + ".norm1"), name + ".attn.qkv")
        q, k, v = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.linear(mixed, name + ".attn.proj")
        hidden = F.gelu(self.linear(self.norm(x, name + ".norm2"), name + ".mlp.fc1"))
        return x + self.linear(hidden, name + ".mlp.fc2")

    def head(self, x, condition, time):
        """One evaluation of the diffusion head. x [rows, channels]; condition, time: embeddings. [noise | variance]"""
        net = "diffloss.net."
        y = F.silu(condition + time)
        h = self.linear(x, net + "input_proj")
        for i in range(self.config["headDepth"]):
            name = f"{net}res_blocks.{i}."
            shift, scale, gate = self.linear(y, name + "adaLN_modulation.1").chunk(3, dim=-1)
            inner = self.norm(h, name + "in_ln") * (1 + scale) + shift
            inner = self.linear(F.silu(self.linear(inner, name + "mlp.0")), name + "mlp.2")
            h = h + gate * inner
        shift, scale = self.linear(y, net + "final_layer.adaLN_modulation.1").chunk(2, dim=-1)
        return self.linear(layer_norm(h) * (1 + scale) + shift, net + "final_layer.linear")

    def time_embedding(self, t):
        """t [times] -> [times, head width]"""
        half = 128
        frequency = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half, device=t.device) / half)
        angle = t[:, None] * frequency[None]
        hidden = torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)
        net = "diffloss.net.time_embed.mlp."
        return self.linear(F.silu(self.linear(hidden, net + "0")), net + "2")

    def conditions(self, tokens, classes, visible):
        """z of every token. tokens [batch, grid, channels], classes [batch, width], visible [batch, count] positions."""
        c, p = self.config, self.parameters
        batch, grid, _ = tokens.shape
        buffer, width = c["bufferSize"], c["encoderWidth"]
        rows = visible[..., None].expand(-1, -1, width)
        position = p["encoder_pos_embed_learned"].view(1, buffer + grid, width)
        seen = self.linear(tokens, "z_proj") + position[:, buffer:]
        front = classes[:, None].expand(-1, buffer, -1) + position[:, :buffer]
        h = torch.cat([front, seen.gather(1, rows)], dim=1)
        h = self.norm(h, "z_proj_ln")
        for i in range(c["encoderDepth"]):
            h = self.block(h, f"encoder_blocks.{i}", c["encoderHeads"])
        h = self.linear(self.norm(h, "encoder_norm"), "decoder_embed")
        full = p["fake_latent"].view(1, 1, width).to(h.dtype).expand(batch, grid, width)
        full = torch.cat([h[:, :buffer], full.scatter(1, rows, h[:, buffer:])], dim=1)
        h = full + p["decoder_pos_embed_learned"].view(1, buffer + grid, width)
        for i in range(c["decoderDepth"]):
            h = self.block(h, f"decoder_blocks.{i}", c["decoderHeads"])
        h = self.norm(h, "decoder_norm")[:, buffer:]
        return h + p["diffusion_pos_embed_learned"].view(1, grid, width)

    def evaluate(self, tokens, classes, visible, asked):
        """The head's condition of the asked tokens. asked [batch, count] -> [batch * count, head width]"""
        z = self.conditions(tokens, classes, visible)
        z = z.gather(1, asked[..., None].expand(-1, -1, z.shape[-1]))
        return self.linear(z.flatten(0, 1), "diffloss.net.cond_embed")


def sampler(network, plan, modules):
    """A whole run: random order, guided steps evaluated as one batch of twice the size, DPM-Solver++ in the head."""
    config, batch = network.config, plan["batch"]
    device = network.parameters["fake_latent"].device
    grid, channels = plan["grid"], config["channels"]
    evaluate, head = modules

    def run():
        tokens = torch.zeros(batch, grid, channels, device=device)
        order = torch.rand(batch, grid, device=device).argsort(dim=1)
        labels = torch.arange(batch, device=device) % config["classes"]
        classes = network.parameters["class_emb.weight"][labels]
        unconditional = network.parameters["fake_latent"].view(1, -1).expand(batch, -1)
        times = network.time_embedding(torch.tensor([e["netT"] for e in plan["solver"]], device=device))
        done = 0
        for count, guidance in plan["steps"]:
            visible = order[:, :done].sort(dim=1).values
            asked = order[:, done : done + count]
            if guidance is None:
                condition = evaluate(tokens, classes, visible, asked)
            else:
                both = torch.cat([classes, unconditional])
                twice = [torch.cat([value, value]) for value in (tokens, visible, asked)]
                condition = evaluate(twice[0], both, twice[1], twice[2])
            x = torch.randn(batch * count, channels, device=device)
            base = mean = x
            for e, embedding in zip(plan["solver"], times):
                given = x if guidance is None else torch.cat([x, x])
                noise = head(given, condition, embedding[None])[:, :channels].float()
                if guidance is not None:
                    conditional, free = noise.chunk(2)
                    noise = free + guidance * (conditional - free)
                m = (x - e["sigma"] * noise) / e["alpha"]
                if e["first"]:
                    base, mean = x, m
                x = e["a"] * base + e["b"] * mean + e["c"] * m
            tokens = tokens.scatter(1, asked[..., None].expand(-1, -1, channels), x.view(batch, count, channels))
            done += count
        return tokens

    return run


def is_linear(name, shape):
    return name.endswith(".weight") and len(shape) == 2 and name != "class_emb.weight"


def random_parameters(shapes, device):
    """Norms begin as the identity, matrices have deviation 1 / sqrt(inputs), as the engine's random weights do."""
    made = {}
    for name, shape in shapes.items():
        if len(shape) == 1 and name.endswith(".weight"):
            made[name] = torch.ones(shape, device=device)
        else:
            made[name] = torch.randn(shape, device=device) * (shape[1] ** -0.5 if is_linear(name, shape) else 0.02)
    return made


class Peer:
    def __init__(self, mode, device):
        self.mode = mode
        self.device = device
        self.half = mode != "eager"
        self.call = None
        self.calls = 1
        self.inputs = {}

    def synchronise(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def compiled(self, function, dynamic=None):
        return torch.compile(function, dynamic=dynamic) if self.mode == "compile" else function

    @contextlib.contextmanager
    def context(self):
        """Entered around all calls of a measurement: autocast keeps weights that it has cast until it is left, as in the
        official code, which samples inside one such context (in inference mode it would cast them for every call)."""
        with torch.no_grad(), torch.autocast(self.device, dtype=torch.float16, enabled=self.half):
            yield

    def on_device(self):
        return {name: value.to(self.device) for name, value in self.inputs.items()}

    def run(self):
        """From host to host, as every peer."""
        return self.call(self.on_device()).float().cpu()

    def as_parameter(self, value, linear):
        """A tensor of its own, not a view. Autocast keeps its cast of leaves that require gradients alone."""
        value = value.to(self.device, copy=True)
        if linear and self.mode == "compile":
            value = value.half()
        return value.requires_grad_(self.mode == "autocast")

    def prepare(self, folder):
        with open(os.path.join(folder, "work.json"), encoding="utf8") as file:
            work = json.load(file)
        count = sum(m["rows"] * m["columns"] for m in work["matrices"])
        path = os.path.join(folder, "data.bin")
        data = torch.from_file(path, size=count, dtype=torch.float32) if count else torch.empty(0)
        parameters, self.inputs = {}, {}
        for m in work["matrices"]:
            size = m["rows"] * m["columns"]
            value = data[m["offset"] : m["offset"] + size].view(m["rows"], m["columns"]).clone()
            if m["kind"] == "input":
                # What a kernel alone is measured on is in half precision from the start.
                self.inputs[m["name"]] = value.half() if self.half and work["kind"] in ("matmul", "attention") else value
            elif m["linear"]:
                parameters[m["name"]] = self.as_parameter(value.t().contiguous(), True)
            else:
                parameters[m["name"]] = self.as_parameter(value[0] if m["rows"] == 1 else value, False)
        start = time.perf_counter()
        self.call = self.callable(work, parameters)
        middle = time.perf_counter()
        with self.context():
            output = self.run()
        end = time.perf_counter()
        self.calls = max(1, min(50, int(0.1 / self.time(1))))
        self.time(min(3, self.calls))
        self.resident_calls = None
        target = os.path.join(folder, "output.bin")
        output.contiguous().numpy().tofile(target)
        return {"file": target, "prepareSeconds": middle - start, "firstSeconds": end - middle}

    def callable(self, work, parameters):
        kind, sizes = work["kind"], work["sizes"]
        network = Network(work["config"], parameters)
        if kind == "matmul":
            weight = parameters["w"].detach().to(torch.float16 if self.half else torch.float32)
            return self.compiled(lambda i: i["x"] @ weight.t())
        if kind == "attention":
            return self.compiled(lambda i: self.attention(i, sizes["heads"]))
        if kind == "block":
            function = self.compiled(lambda x: network.block(x, "encoder_blocks.0", sizes["heads"]))
            return lambda i: function(i["x"][None])[0]
        if kind == "tiny":
            return self.compiled(lambda i: repeat(torch.tanh, i["x"], sizes["count"]))
        if kind == "norms":
            return self.compiled(lambda i: repeat(layer_norm, i["x"], sizes["count"]))
        if kind == "head":
            function = self.compiled(network.head)
            return lambda i: function(i["x"], i["condition"], i["time"])
        if kind == "network":
            rows = {name: torch.tensor([work["rows"][name]], device=self.device) for name in ("visible", "everywhere")}

            def evaluate(tokens, time, x):
                classes = parameters["class_emb.weight"][work["class"]][None]
                condition = network.evaluate(tokens[None], classes, rows["visible"], rows["everywhere"])
                return network.head(x, condition, time)

            function = self.compiled(evaluate)
            return lambda i: function(i["tokens"], i["time"], i["x"])
        if kind == "sampling":
            made = random_parameters(work["shapes"], self.device)
            linear = {n for n, shape in work["shapes"].items() if is_linear(n, shape)}
            network.parameters = {n: self.as_parameter(value, n in linear) for n, value in made.items()}
            modules = (self.compiled(network.evaluate, True), self.compiled(network.head, True))
            run = sampler(network, work["plan"], modules)
            return lambda i: run()
        raise ValueError(f"no {kind} here")

    def attention(self, i, heads):
        q, k, v = (i[n].unflatten(1, (heads, -1)).transpose(0, 1)[None] for n in "qkv")
        return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)

    def time(self, count):
        self.synchronise()
        start = time.perf_counter()
        with self.context():
            for _ in range(count):
                self.run()
        self.synchronise()
        return (time.perf_counter() - start) / count

    def resident(self):
        """Seconds of a call whose inputs are on the device and whose result stays there."""

        def seconds(count):
            self.synchronise()
            start = time.perf_counter()
            for _ in range(count):
                self.call(inputs)
            self.synchronise()
            return (time.perf_counter() - start) / count

        with self.context():
            inputs = self.on_device()
            if self.resident_calls is None:
                seconds(3)
                self.resident_calls = max(1, min(5000, int(0.1 / seconds(10))))
            return seconds(self.resident_calls)

    def answer(self, request):
        if request["do"] == "open":
            name = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
            return {"device": name, "versions": {"torch": torch.__version__, "cuda": str(torch.version.cuda)}}
        if request["do"] == "prepare":
            return self.prepare(request["folder"])
        if request["do"] == "measure":
            reply = {"seconds": self.time(self.calls)}
            # A whole sampling run has no inputs, and brings nothing but its images back.
            return {**reply, "resident": self.resident()} if request.get("resident") and self.inputs else reply
        self.call, self.inputs = None, {}
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return {"done": True}


def repeat(function, x, count):
    for _ in range(count):
        x = function(x)
    return x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["eager", "autocast", "compile"], required=True)
    parser.add_argument("--cpu", action="store_true", help="on the CPU: to check the numbers, not to measure")
    arguments = parser.parse_args()
    problem = None
    if torch is None:
        problem = "PyTorch is not installed"
    elif not arguments.cpu and not torch.cuda.is_available():
        problem = "PyTorch finds no CUDA device"
    peer = None if problem else Peer(arguments.mode, "cpu" if arguments.cpu else "cuda")
    for line in sys.stdin:
        try:
            reply = {"error": problem} if problem else peer.answer(json.loads(line))
        except Exception as error:  # every failure is said in the peer's row
            reply = {"error": (str(error).splitlines() or [repr(error)])[0]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
