/**
 * The clients of the benchmark of the page service, as a process of their own: takes a load and a target as JSON, puts
 * the load on the target, and prints what was measured as JSON.
 */
import type { Load, Measured, PageConnection, PageProtocol, PageTarget } from "./page-protocol.ts";
import { grpcPages } from "./page-grpc.ts";
import { httpPages } from "./page-http.ts";
import { libpqPages } from "./page-libpq.ts";

const PROTOCOLS: readonly PageProtocol[] = [libpqPages, grpcPages, httpPages];

class Run {
  private readonly load: Load;
  private readonly connections: readonly PageConnection[];
  private block = 0;

  constructor(load: Load, connections: readonly PageConnection[]) {
    this.load = load;
    this.connections = connections;
  }

  /** Asks for so many pages; the latency of each request in microseconds. */
  async pages(count: number): Promise<number[]> {
    const { batch, depth } = this.load;
    const latencies: number[] = [];
    const requests = Math.max(1, Math.floor(count / batch));
    let sent = 0;
    const finished = Promise.withResolvers<void>();
    const ask = (connection: PageConnection): void => {
      if (sent === requests) return;
      sent++;
      const start = performance.now();
      connection.request(this.nextBlocks(), () => {
        latencies.push((performance.now() - start) * 1000);
        if (latencies.length === requests) finished.resolve();
        else ask(connection);
      });
    };
    for (const connection of this.connections) for (let i = 0; i < depth; i++) ask(connection);
    await finished.promise;
    return latencies;
  }

  private nextBlocks(): number[] {
    const { batch, hotPages } = this.load;
    const first = this.block;
    this.block = (first + batch) % hotPages;
    return Array.from({ length: batch }, (_, index) => (first + index) % hotPages);
  }
}

async function measure(load: Load, target: PageTarget): Promise<Measured> {
  const protocol = PROTOCOLS.find(({ name }) => name === load.protocol);
  if (!protocol) throw new Error(`no protocol ${load.protocol}`);
  const connections: PageConnection[] = [];
  for (let i = 0; i < load.clients; i++) connections.push(await protocol.connect(target));
  const run = new Run(load, connections);
  await run.pages(load.warmUpPages);
  process.send?.("begin");
  const start = performance.now();
  const latencies = (await run.pages(load.pages)).sort((a, b) => a - b);
  const seconds = (performance.now() - start) / 1000;
  process.send?.("end");
  await Promise.all(connections.map((connection) => connection.close()));
  const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? 0;
  return { pages: latencies.length * load.batch, seconds, p50: at(0.5), p99: at(0.99) };
}

const [load, target] = process.argv.slice(2).map((text) => JSON.parse(text) as unknown);
process.send?.(await measure(load as Load, target as PageTarget));
process.disconnect?.();
