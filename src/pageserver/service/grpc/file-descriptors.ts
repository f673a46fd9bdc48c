/**
 * Descriptions of `.proto` files as reflection gives them away. The loader makes a file of each package, named after it, and
 * forgets which files import which: clients that check that (grpcurl, Go, Python) find no type of another package. Here
 * files get the names under which they are imported, and their imports.
 * Source: protobuf, descriptor.proto: FileDescriptorProto, DescriptorProto, FieldDescriptorProto.
 */
import type { EnumTypeDefinition, MessageTypeDefinition, PackageDefinition } from "@grpc/proto-loader";
import { ProtoReader, ProtoWriter } from "../../../base/page-api/protobuf.ts";

/** Field numbers. */
const FILE_NAME = 1;
const FILE_PACKAGE = 2;
const FILE_DEPENDENCY = 3;
const FILE_MESSAGES = 4;
const MESSAGE_FIELDS = 2;
const FIELD_TYPE_NAME = 6;

/** By package, as others import them. */
const FILE_NAMES: ReadonlyMap<string, string> = new Map([
  ["page_api", "page_service.proto"],
  ["google.protobuf", "google/protobuf/timestamp.proto"],
  ["grpc.health.v1", "grpc/health/v1/health.proto"],
]);

/** The same definitions, whose files know their names and imports. */
export function withImports(definitions: PackageDefinition): PackageDefinition {
  const done = new Map<Buffer, Buffer>();
  const whole = (file: Buffer): Buffer => {
    const known = done.get(file) ?? describe(file);
    done.set(file, known);
    return known;
  };
  return Object.fromEntries(
    Object.entries(definitions).map(([name, definition]) => [
      name,
      isType(definition)
        ? { ...definition, fileDescriptorProtos: definition.fileDescriptorProtos.map(whole) }
        : definition,
    ]),
  );
}

/** Types have their files; of services only the types count. */
function isType(
  definition: PackageDefinition[string],
): definition is EnumTypeDefinition | MessageTypeDefinition<object, object> {
  return Array.isArray(definition["fileDescriptorProtos"]);
}

/** In Protobuf what is added at the end counts: a name in place of the one before, an import beside others. */
function describe(file: Buffer): Buffer {
  const own = new TextDecoder().decode(fields(file, FILE_PACKAGE)[0]);
  const more = new ProtoWriter();
  const name = FILE_NAMES.get(own);
  if (name !== undefined) more.text(FILE_NAME, name);
  for (const [other, imported] of FILE_NAMES) {
    if (other !== own && refersTo(file, other)) more.text(FILE_DEPENDENCY, imported);
  }
  return Buffer.concat([file, more.finish()]);
}

/** Whether a field of a message in the file is of a type of the other package. */
function refersTo(file: Uint8Array, otherPackage: string): boolean {
  return fields(file, FILE_MESSAGES)
    .flatMap((message) => fields(message, MESSAGE_FIELDS))
    .flatMap((field) => fields(field, FIELD_TYPE_NAME))
    .some((type) => new TextDecoder().decode(type).replace(/^\./, "").startsWith(`${otherPackage}.`));
}

/** All values of a field that has bytes. */
function fields(message: Uint8Array, wanted: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  const reader = new ProtoReader(message);
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === wanted) found.push(reader.view());
    else reader.skip();
  }
  return found;
}
