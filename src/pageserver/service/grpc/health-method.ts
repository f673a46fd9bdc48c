/**
 * The usual health service, `grpc.health.v1.Health`: whether the pageserver, and its page service, can be asked. Written
 * here since it is two tiny messages; the names that are asked about are not kept, however many there are.
 */
import { PAGE_SERVICE } from "../../../base/page-api/page-model.ts";
import { type OutgoingMessage, wholeMessage } from "../../../base/page-api/page-responses.ts";
import { ProtoReader, ProtoWriter } from "../../../base/page-api/protobuf.ts";
import type { GrpcCall } from "./grpc-call.ts";
import { GrpcCode, GrpcError } from "./grpc-status.ts";
import { decoded } from "./unary-methods.ts";

export const HEALTH_SERVICE = "grpc.health.v1.Health";

const Serving = { Yes: 1, No: 2, Unknown: 3 } as const;
type Serving = (typeof Serving)[keyof typeof Serving];

export class Health {
  private readonly isReady: () => boolean;
  private readonly watchers = new Set<() => void>();

  constructor(isReady: () => boolean) {
    this.isReady = isReady;
  }

  /** To be called when the answer of `isReady` may have changed. */
  changed(): void {
    for (const watcher of this.watchers) watcher();
  }

  async check(call: GrpcCall): Promise<void> {
    const status = this.statusOf(decoded(serviceOf, await call.receiveOne()));
    if (status === Serving.Unknown)
      throw new GrpcError(GrpcCode.NotFound, "there is no such service on this pageserver");
    await call.send(answer(status));
  }

  /** Says it now and whenever it changes, until the client has had enough. */
  async watch(call: GrpcCall): Promise<void> {
    const service = decoded(serviceOf, await call.receiveOne());
    let told: Serving | undefined;
    const { signal } = call;
    while (!signal.aborted) {
      const status = this.statusOf(service);
      if (status !== told) await call.send(answer(status));
      told = status;
      await this.change(signal);
    }
    signal.throwIfAborted();
  }

  private async change(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const wake = (): void => resolve();
    this.watchers.add(wake);
    signal.addEventListener("abort", wake, { once: true });
    try {
      await promise;
    } finally {
      this.watchers.delete(wake);
      signal.removeEventListener("abort", wake);
    }
  }

  private statusOf(service: string): Serving {
    if (service !== "" && service !== PAGE_SERVICE) return Serving.Unknown;
    return this.isReady() ? Serving.Yes : Serving.No;
  }
}

function serviceOf(bytes: Uint8Array): string {
  const reader = new ProtoReader(bytes);
  let service = "";
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) service = reader.text();
    else reader.skip();
  }
  return service;
}

function answer(status: Serving): OutgoingMessage {
  return wholeMessage(new ProtoWriter().u32(1, status).finish());
}
