/** A generic gRPC client that knows nothing but what the server says of itself by reflection, as grpcurl does. */
import {
  Client,
  type GrpcObject,
  Metadata,
  type ServiceClientConstructor,
  credentials,
  loadPackageDefinition,
} from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";
import { ProtoReader, ProtoWriter } from "../../src/base/page-api/protobuf.ts";

/** Fields of ServerReflectionRequest and -Response, and of what is in them. */
const FILE_BY_NAME = 3;
const FILE_CONTAINING_SYMBOL = 4;
const LIST_SERVICES = 7;
const FILE_ANSWER = 4;
const LIST_ANSWER = 6;
const ERROR_ANSWER = 7;

type Version = "v1" | "v1alpha";

/** The answer to one question: the fields of the response. */
async function ask(address: string, version: Version, request: Uint8Array): Promise<Map<number, Uint8Array>> {
  const client = new Client(address, credentials.createInsecure());
  try {
    const call = client.makeBidiStreamRequest(
      `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
      (bytes: Uint8Array) => Buffer.from(bytes),
      (bytes: Buffer) => bytes,
      new Metadata(),
    );
    const answer = new Promise<Buffer>((resolve, reject) => {
      call.on("data", resolve);
      call.on("error", reject);
    });
    call.write(request);
    const bytes = await answer;
    call.end();
    const fields = new Map<number, Uint8Array>();
    const reader = new ProtoReader(bytes);
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      fields.set(field, reader.view());
    }
    return fields;
  } finally {
    client.close();
  }
}

function blobs(message: Uint8Array | undefined, wanted = 1): Uint8Array[] {
  const found: Uint8Array[] = [];
  const reader = new ProtoReader(message ?? new Uint8Array());
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === wanted) found.push(reader.view());
    else reader.skip();
  }
  return found;
}

export async function listServices(address: string, version: Version = "v1"): Promise<string[]> {
  const fields = await ask(address, version, new ProtoWriter().text(LIST_SERVICES, "*").finish());
  return blobs(fields.get(LIST_ANSWER)).map((service) => new TextDecoder().decode(blobs(service)[0]));
}

/** A file as the server describes it: its name, and those of the files that it imports. */
export interface DescribedFile {
  readonly name: string;
  readonly imports: readonly string[];
}

/** The files that the server gives for a symbol, or for the name of a file. */
export async function describedFiles(
  address: string,
  version: Version,
  by: { readonly symbol: string } | { readonly file: string },
): Promise<DescribedFile[]> {
  const question = new ProtoWriter();
  if ("symbol" in by) question.text(FILE_CONTAINING_SYMBOL, by.symbol);
  else question.text(FILE_BY_NAME, by.file);
  const fields = await ask(address, version, question.finish());
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  return blobs(fields.get(FILE_ANSWER)).map((file) => ({
    name: blobs(file).map(text).at(-1) ?? "",
    imports: blobs(file, 3).map(text),
  }));
}

/** The constructor of a client of a service, made from what the server says. */
export async function clientFor(address: string, service: string): Promise<ServiceClientConstructor> {
  const fields = await ask(address, "v1", new ProtoWriter().text(FILE_CONTAINING_SYMBOL, service).finish());
  if (fields.has(ERROR_ANSWER)) throw new Error(Buffer.from(fields.get(ERROR_ANSWER) ?? []).toString());
  const set = new ProtoWriter();
  for (const file of blobs(fields.get(FILE_ANSWER))) set.bytes(1, file);
  const definition = loadFileDescriptorSetFromBuffer(Buffer.from(set.finish()), {
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
  });
  let found: GrpcObject[string] | undefined = loadPackageDefinition(definition);
  for (const part of service.split(".")) found = (found as GrpcObject | undefined)?.[part];
  if (typeof found !== "function") throw new Error(`the server describes no service ${service}`);
  return found;
}
