/**
 * A self-signed certificate for a server: an ECDSA key on P-256, signed with itself, for names and addresses. Clients
 * trust it by having the file (sslrootcert), so it is its own authority and signs nothing else.
 * Source: RFC 5280 (certificates), RFC 5480 and 5758 (elliptic curves in them).
 */
import { X509Certificate, createHash, generateKeyPairSync, sign } from "node:crypto";
import { isIP } from "node:net";
import { ErrorCode, NeonError, assert } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import {
  derBitString,
  derBoolean,
  derInteger,
  derObjectIdentifier,
  derOctetString,
  derSequence,
  derSet,
  derTagged,
  derTime,
  derUtf8String,
} from "./der.ts";

const Oid = {
  commonName: "2.5.4.3",
  subjectKeyIdentifier: "2.5.29.14",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  extendedKeyUsage: "2.5.29.37",
  serverAuth: "1.3.6.1.5.5.7.3.1",
  ecdsaWithSha256: "1.2.840.10045.4.3.2",
} as const;

const SERIAL_SIZE = 16;
/** Version 3. */
const VERSION = Uint8Array.of(2);
/** GeneralName: dNSName and iPAddress. */
const NAME_DNS = 2;
const NAME_IP = 7;
const NAMES_MAX = 100;
/** Upper bound of a common name. */
const COMMON_NAME_LENGTH_MAX = 64;
/** Clocks of clients may be behind ours. */
const CLOCK_SKEW_MS = 3_600_000;
const DAY_MS = 86_400_000;

export interface CertificateRequest {
  /** Host names and IP addresses by which clients know the server; the first is its common name. */
  readonly hosts: readonly string[];
  readonly days: number;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export interface Certificate {
  readonly certPem: string;
  /** PKCS #8. Secret. */
  readonly keyPem: string;
  /** SHA-256 of the certificate, in hexadecimal with colons. */
  readonly fingerprint: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** Throws `usage` for what is no host name or address. */
export function makeCertificate(request: CertificateRequest, random: Random): Certificate {
  const { hosts, days, now } = request;
  const [first] = hosts;
  if (first === undefined || hosts.length > NAMES_MAX) {
    throw new NeonError(ErrorCode.Usage, `a certificate has 1 to ${NAMES_MAX} names`);
  }
  const alternativeNames = hosts.map(generalName);
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const spki = publicKey.export({ type: "spki", format: "der" });
  const expiresAt = now + days * DAY_MS;
  const signatureAlgorithm = derSequence(derObjectIdentifier(Oid.ecdsaWithSha256));
  const name = distinguishedName(first.slice(0, COMMON_NAME_LENGTH_MAX));
  const body = derSequence(
    derTagged(0, derInteger(VERSION), true),
    derInteger(serialNumber(random)),
    signatureAlgorithm,
    name,
    derSequence(derTime(now - CLOCK_SKEW_MS), derTime(expiresAt)),
    name,
    spki,
    derTagged(3, derSequence(...extensions(spki, alternativeNames)), true),
  );
  // Node gives the signature as the SEQUENCE of r and s that certificates have.
  const signature = sign("sha256", body, privateKey);
  const der = derSequence(body, signatureAlgorithm, derBitString(signature));
  const made = new X509Certificate(Buffer.from(der));
  assert(made.verify(publicKey), "a certificate that is its own authority");
  return {
    certPem: made.toString(),
    keyPem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    fingerprint: made.fingerprint256,
    expiresAt,
  };
}

function extensions(spki: Uint8Array, alternativeNames: readonly Uint8Array[]): Uint8Array[] {
  const critical = derBoolean(true);
  const extension = (oid: string, value: Uint8Array, ...flags: Uint8Array[]): Uint8Array =>
    derSequence(derObjectIdentifier(oid), ...flags, derOctetString(value));
  const keyIdentifier = createHash("sha256").update(spki).digest().subarray(0, 20);
  // Bit 0, digitalSignature: the other seven are not used.
  const digitalSignature = derBitString(Uint8Array.of(0x80), 7);
  return [
    // No authority for others: an empty SEQUENCE says so.
    extension(Oid.basicConstraints, derSequence(), critical),
    extension(Oid.keyUsage, digitalSignature, critical),
    extension(Oid.extendedKeyUsage, derSequence(derObjectIdentifier(Oid.serverAuth))),
    extension(Oid.subjectKeyIdentifier, derOctetString(keyIdentifier)),
    extension(Oid.subjectAltName, derSequence(...alternativeNames)),
  ];
}

function distinguishedName(commonName: string): Uint8Array {
  return derSequence(derSet(derSequence(derObjectIdentifier(Oid.commonName), derUtf8String(commonName))));
}

/** Positive, and not zero: the highest bit is clear, the next one set. */
function serialNumber(random: Random): Uint8Array {
  const bytes = new Uint8Array(random.bytes(SERIAL_SIZE));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes;
}

const HOST_NAME =
  /^(?:\*\.)?(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*$/;

function generalName(host: string): Uint8Array {
  const family = isIP(host);
  if (family === 4) return derTagged(NAME_IP, Uint8Array.from(host.split(".").map(Number)), false);
  if (family === 6) return derTagged(NAME_IP, ipv6Bytes(host), false);
  if (!HOST_NAME.test(host)) {
    throw new NeonError(ErrorCode.Usage, `"${host}" is no host name or IP address`, {
      hint: "Names are made of letters, digits, hyphens and dots, such as db.example.com; addresses have no brackets.",
    });
  }
  return derTagged(NAME_DNS, Buffer.from(host, "latin1"), false);
}

/** The 16 bytes of an address that `isIP` has accepted. */
function ipv6Bytes(address: string): Uint8Array {
  // The URL parser writes out IPv4 tails and brings everything into the shortest form in hexadecimal.
  const [withoutZone = ""] = address.split("%");
  const plain = new URL(`http://[${withoutZone}]/`).hostname.slice(1, -1);
  const [head = "", tail] = plain.split("::");
  const groups = (text: string): number[] =>
    text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const words = [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
  return Uint8Array.from(words.flatMap((word) => [word >> 8, word & 0xff]));
}
