/** Certificates for pageservers, for the command line that writes them. */
export { type Certificate, makeCertificate } from "../pgwire/certificate.ts";
