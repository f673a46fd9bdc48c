/**
 * Server reflection, versions v1 and v1alpha: tools ask the server itself what it offers. The library is loaded when
 * somebody asks: most servers never are, and it costs more time than all else that a pageserver needs to start.
 */
import type { ServiceDefinition } from "@grpc/grpc-js";
import { EventEmitter } from "node:events";
import { join } from "node:path";
import { PAGE_SERVICE } from "../../../base/page-api/page-model.ts";
import { wholeMessage } from "../../../base/page-api/page-responses.ts";
import { withImports } from "./file-descriptors.ts";
import { GrpcCode, GrpcError } from "./grpc-status.ts";
import type { GrpcCall } from "./grpc-call.ts";
import { HEALTH_SERVICE } from "./health-method.ts";

export const REFLECTION_PATHS = [
  "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
  "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
] as const;

/** Beside src/ and dist/. */
const PROTO_DIRECTORY = join(import.meta.dirname, "..", "..", "..", "..", "proto");
const PROTO_FILES = ["page_service.proto", "health.proto"];

/** Answers one message with one. */
type Answerer = (request: Uint8Array) => Uint8Array;

/** The library thinks that it talks to a stream; here is one with nothing behind it. */
class OneExchange extends EventEmitter {
  response: unknown;

  write(response: unknown): void {
    this.response = response;
  }

  end(): void {
    this.removeAllListeners();
  }
}

export class Reflection {
  private answerers: Promise<ReadonlyMap<string, Answerer>> | undefined;

  async serve(call: GrpcCall): Promise<void> {
    this.answerers ??= load();
    const answer = (await this.answerers).get(call.path);
    if (!answer) throw new GrpcError(GrpcCode.Unimplemented, `there is no method ${call.path}`);
    for (let bytes = await call.receive(); bytes !== undefined; bytes = await call.receive()) {
      await call.send(wholeMessage(answer(bytes)));
    }
  }
}

async function load(): Promise<ReadonlyMap<string, Answerer>> {
  const { loadSync } = await import("@grpc/proto-loader");
  const { ReflectionService } = await import("@grpc/reflection");
  const definitions = loadSync(PROTO_FILES, { includeDirs: [PROTO_DIRECTORY], keepCase: true });
  const answerers = new Map<string, Answerer>();
  const library = new ReflectionService(withImports(definitions), {
    services: [PAGE_SERVICE, HEALTH_SERVICE],
  });
  library.addToServer({
    addService: (service: ServiceDefinition, implementation: Readonly<Record<string, unknown>>) => {
      for (const [name, method] of Object.entries(service)) {
        const handle = implementation[name] ?? implementation[method.originalName ?? ""];
        if (typeof handle !== "function") continue;
        answerers.set(method.path, (bytes) => {
          const exchange = new OneExchange();
          handle(exchange);
          exchange.emit("data", requestOf(method, bytes));
          exchange.end();
          return method.responseSerialize(exchange.response);
        });
      }
    },
  });
  return answerers;
}

function requestOf(method: ServiceDefinition[string], bytes: Uint8Array): unknown {
  try {
    return method.requestDeserialize(Buffer.from(bytes));
  } catch (error) {
    throw new GrpcError(GrpcCode.InvalidArgument, "the message is no request of reflection", {
      cause: error,
    });
  }
}
