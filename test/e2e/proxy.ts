/** A TCP proxy that does what bad networks do: delays, limits, cuts, and flips bits. */
import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export interface Weather {
  /** Each piece of data arrives this much later, milliseconds. */
  readonly delayMs?: number;
  /** Bytes per second, each way. */
  readonly bytesPerSecond?: number;
  /** The connection breaks when so many bytes have passed in both directions together. */
  readonly cutAfter?: number;
  /** When so many bytes have passed, nothing passes any more: time to kill somebody. */
  readonly stallAfter?: number;
  /** One bit of this byte, counted in both directions together, is flipped. */
  readonly flipAt?: number;
}

const PIECE_BYTES = 64 * 1024;

export class Proxy implements AsyncDisposable {
  weather: Weather = {};
  /** Bytes that have passed since the last `reset`. */
  passedBytes = 0;
  /** Whether something is held back. */
  stalled = false;
  private readonly server: Server;
  private readonly targetPort: number;
  private readonly sockets = new Set<Socket>();

  private constructor(server: Server, targetPort: number) {
    this.server = server;
    this.targetPort = targetPort;
    server.on("connection", (client) => this.accept(client));
  }

  static async start(targetPort: number): Promise<Proxy> {
    const server = createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    return new Proxy(server, targetPort);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  /** Other weather from now on; counts begin anew. */
  reset(weather: Weather = {}): void {
    this.weather = weather;
    this.passedBytes = 0;
    this.stalled = false;
  }

  /** Cuts all connections. */
  cut(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.close();
    this.cut();
    return Promise.resolve();
  }

  private accept(client: Socket): void {
    const server = connect({ port: this.targetPort, host: "127.0.0.1", allowHalfOpen: true });
    for (const socket of [client, server]) {
      this.sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    void this.forward(client, server);
    void this.forward(server, client);
  }

  private async forward(from: Socket, to: Socket): Promise<void> {
    try {
      for await (const chunk of from) {
        const data = chunk as Buffer;
        for (let at = 0; at < data.length; at += PIECE_BYTES) {
          await this.pass(data.subarray(at, at + PIECE_BYTES), to);
        }
      }
      to.end();
    } catch {
      from.destroy();
      to.destroy();
    }
  }

  private async pass(piece: Buffer, to: Socket): Promise<void> {
    const { delayMs, bytesPerSecond, cutAfter, flipAt, stallAfter } = this.weather;
    if (delayMs !== undefined) await sleep(delayMs);
    if (bytesPerSecond !== undefined) await sleep((piece.length / bytesPerSecond) * 1000);
    if (stallAfter !== undefined && this.passedBytes + piece.length > stallAfter) {
      this.stalled = true;
      // Until one of the two sides gives up.
      if (!to.destroyed) await once(to, "close");
      return;
    }
    const before = this.passedBytes;
    this.passedBytes += piece.length;
    if (flipAt !== undefined && flipAt >= before && flipAt < this.passedBytes) {
      piece[flipAt - before] = (piece[flipAt - before] ?? 0) ^ 0x10;
    }
    if (cutAfter !== undefined && this.passedBytes > cutAfter) {
      to.write(piece.subarray(0, Math.max(0, cutAfter - before)));
      // What has been written arrives; nothing after it does.
      await sleep(5);
      this.cut();
      return;
    }
    if (!to.write(piece) && !to.destroyed) await Promise.race([once(to, "drain"), once(to, "close")]);
  }
}
