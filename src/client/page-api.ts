/**
 * Typed client of the pageserver's gRPC page API, for one timeline. As strict as other clients: an answer that lacks what
 * must be there is an error.
 */
import {
  Client,
  type ClientDuplexStream,
  Metadata,
  type ServiceError,
  compressionAlgorithms,
  credentials,
  status,
} from "@grpc/grpc-js";
import { ErrorCode, NeonError, corrupt } from "../base/errors.ts";
import {
  type CheckRelExistsRequest,
  type GetBaseBackupRequest,
  type GetDbSizeRequest,
  type GetPageRequest,
  type GetPageResponse,
  type GetRelSizeRequest,
  type GetSlruSegmentRequest,
  type LeaseLsnRequest,
  MetadataKey,
  PAGE_SERVICE,
  type PageMethod,
} from "../base/page-api/page-model.ts";
import {
  encodeCheckRelExistsRequest,
  encodeGetBaseBackupRequest,
  encodeGetDbSizeRequest,
  encodeGetPageRequest,
  encodeGetRelSizeRequest,
  encodeGetSlruSegmentRequest,
  encodeLeaseLsnRequest,
} from "../base/page-api/page-requests.ts";
import {
  decodeBytesResponse,
  decodeDbSizeResponse,
  decodeGetPageResponse,
  decodeLeaseResponse,
  decodeRelExistsResponse,
  decodeRelSizeResponse,
} from "../base/page-api/page-responses.ts";
import { type ShardId, UNSHARDED, formatShardId } from "../base/page-api/shard.ts";

export interface PageApiTarget {
  /** HOST:PORT. */
  readonly address: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly shard?: ShardId;
  /** Bearer token. */
  readonly token?: string | undefined;
  /** Certificate in PEM that the server's must come from; without it the connection is not encrypted. */
  readonly rootCertificate?: Uint8Array;
  /** Of messages, both ways. */
  readonly compression?: "gzip";
}

/** Bytes that the server may send ahead: a batch of pages fits in several times. */
const WINDOW_BYTES = 4 * 1024 * 1024;

const CODES: Readonly<Partial<Record<status, ErrorCode>>> = {
  [status.INVALID_ARGUMENT]: ErrorCode.Usage,
  [status.OUT_OF_RANGE]: ErrorCode.Usage,
  [status.NOT_FOUND]: ErrorCode.NotFound,
  [status.ALREADY_EXISTS]: ErrorCode.Exists,
  [status.FAILED_PRECONDITION]: ErrorCode.Conflict,
  [status.PERMISSION_DENIED]: ErrorCode.Declined,
  [status.UNAUTHENTICATED]: ErrorCode.Declined,
  [status.UNAVAILABLE]: ErrorCode.Unreachable,
  [status.DEADLINE_EXCEEDED]: ErrorCode.Timeout,
  [status.RESOURCE_EXHAUSTED]: ErrorCode.Resource,
  [status.DATA_LOSS]: ErrorCode.Corrupt,
  [status.UNIMPLEMENTED]: ErrorCode.Unsupported,
};

function toNeonError(error: Partial<ServiceError> & Error): NeonError {
  const grpc = error.code === undefined ? null : (status[error.code] ?? null);
  const code = CODES[error.code ?? status.UNKNOWN] ?? ErrorCode.Failed;
  return new NeonError(code, error.details ?? error.message, { data: { grpc }, cause: error });
}

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const asBytes = (bytes: Buffer): Buffer => bytes;

export class PageApiClient implements Disposable {
  private readonly client: Client;
  private readonly metadata: Metadata;

  /** Connects with the first call. */
  constructor(target: PageApiTarget) {
    const { rootCertificate, compression } = target;
    const channel = rootCertificate
      ? credentials.createSsl(asBuffer(rootCertificate))
      : credentials.createInsecure();
    this.client = new Client(target.address, channel, {
      "grpc-node.flow_control_window": WINDOW_BYTES,
      ...(compression === undefined
        ? {}
        : { "grpc.default_compression_algorithm": compressionAlgorithms.gzip }),
    });
    this.metadata = new Metadata();
    this.metadata.set(MetadataKey.Tenant, target.tenantId);
    this.metadata.set(MetadataKey.Timeline, target.timelineId);
    this.metadata.set(MetadataKey.Shard, formatShardId(target.shard ?? UNSHARDED));
    if (target.token !== undefined) this.metadata.set(MetadataKey.Authorization, `Bearer ${target.token}`);
  }

  [Symbol.dispose](): void {
    this.client.close();
  }

  /** Undefined if there is no such relation and `allowMissing` is set. */
  async relSize(request: GetRelSizeRequest): Promise<number | undefined> {
    return decodeRelSizeResponse(await this.unary("GetRelSize", encodeGetRelSizeRequest(request)));
  }

  async relExists(request: CheckRelExistsRequest): Promise<boolean> {
    return decodeRelExistsResponse(await this.unary("CheckRelExists", encodeCheckRelExistsRequest(request)));
  }

  /** In bytes. */
  async dbSize(request: GetDbSizeRequest): Promise<number> {
    return decodeDbSizeResponse(await this.unary("GetDbSize", encodeGetDbSizeRequest(request)));
  }

  async slruSegment(request: GetSlruSegmentRequest): Promise<Uint8Array> {
    return decodeBytesResponse(await this.unary("GetSlruSegment", encodeGetSlruSegmentRequest(request)));
  }

  /** Until when it holds, in milliseconds since 1970. */
  async leaseLsn(request: LeaseLsnRequest): Promise<number> {
    return decodeLeaseResponse(await this.unary("LeaseLsn", encodeLeaseLsnRequest(request)));
  }

  /** The tar, in pieces; compressed if that was asked for. Leaving the loop cancels the call. */
  async *baseBackup(request: GetBaseBackupRequest): AsyncGenerator<Uint8Array> {
    const call = this.client.makeServerStreamRequest(
      pathOf("GetBaseBackup"),
      asBuffer,
      asBytes,
      encodeGetBaseBackupRequest(request),
      this.metadata,
    );
    try {
      for await (const message of call as AsyncIterable<Buffer>) yield decodeBytesResponse(message);
    } catch (error) {
      throw error instanceof NeonError || !(error instanceof Error) ? error : toNeonError(error);
    } finally {
      call.cancel();
    }
  }

  /** A stream of requests for pages; close it when it is not needed any more. */
  pages(): PageRequestStream {
    return new PageRequestStream(
      this.client.makeBidiStreamRequest(pathOf("GetPages"), asBuffer, asBytes, this.metadata),
    );
  }

  private unary(method: PageMethod, request: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        pathOf(method),
        asBuffer,
        asBytes,
        request,
        this.metadata,
        (error, answer) => {
          if (error) reject(toNeonError(error));
          else if (answer) resolve(answer);
          else reject(corrupt(`${method} has no answer`));
        },
      );
    });
  }
}

interface Waiting {
  readonly id: bigint;
  readonly resolve: (response: GetPageResponse) => void;
  readonly reject: (error: NeonError) => void;
}

/** Requests may be made without waiting for answers, which come in the order of requests. */
export class PageRequestStream {
  private readonly call: ClientDuplexStream<Uint8Array, Buffer>;
  private readonly waiting: Waiting[] = [];
  private failure: NeonError | undefined;

  constructor(call: ClientDuplexStream<Uint8Array, Buffer>) {
    this.call = call;
    call.on("data", (message: Buffer) => this.onMessage(message));
    call.on("error", (error: ServiceError) => this.fail(toNeonError(error)));
    call.on("end", () => this.fail(new NeonError(ErrorCode.Unreachable, "the stream of pages has ended")));
  }

  /** Rejects when the stream ends; what is wrong with the request alone is an answer. */
  request(request: GetPageRequest): Promise<GetPageResponse> {
    return new Promise((resolve, reject) => {
      if (this.failure) {
        reject(this.failure);
        return;
      }
      this.waiting.push({ id: request.requestId.id, resolve, reject });
      this.call.write(encodeGetPageRequest(request));
    });
  }

  /** Says that no more requests come. */
  end(): void {
    this.call.end();
  }

  cancel(): void {
    this.call.cancel();
  }

  private onMessage(message: Buffer): void {
    try {
      const response = decodeGetPageResponse(message);
      const waiting = this.waiting.shift();
      if (waiting?.id !== response.requestId.id) throw corrupt("an answer belongs to another request");
      waiting.resolve(response);
    } catch (error) {
      if (!(error instanceof NeonError)) throw error;
      this.fail(error);
      this.call.cancel();
    }
  }

  private fail(error: NeonError): void {
    this.failure ??= error;
    for (const { reject } of this.waiting.splice(0)) reject(this.failure);
  }
}

function pathOf(method: PageMethod): string {
  return `/${PAGE_SERVICE}/${method}`;
}
