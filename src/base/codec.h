/*-------------------------------------------------------------------------
 *
 * codec.h
 *		Values of PostgreSQL types to bytes of the wire and back.
 *
 * A column travels in its type's binary send format, with encoders of our own
 * for common types, or as text where the binary form holds OIDs of this
 * database or does not exist.  The bytes do not depend on the session's
 * settings (client_encoding, DateStyle, search_path and the like), and encode and
 * decode need no snapshot for built-in types.  Characters are in the encoding of
 * the database, which the nodes of a group have in common.
 *
 * Memory: encoding and decoding leave garbage in CurrentMemoryContext, which the
 * caller resets after each row.  A codec belongs to one relation's plan; when a
 * type in it is altered it must be made anew.
 *
 * This is the one part of base/ that needs the backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CODEC_H
#define COZE_CODEC_H

#include "postgres.h"

#include "access/tupdesc.h"

#include "base/wire.h"

/* How one column is encoded and decoded; filled once per relation. */
typedef struct CozeCodec CozeCodec;

/* In CurrentMemoryContext.  typid may be a domain: it is looked through. */
extern CozeCodec *coze_codec_make(Oid typid, int32 typmod);
extern bool coze_codec_is_binary(const CozeCodec *codec);

/* Append the value, or NULL, in wire form.  A toasted datum is detoasted. */
extern void coze_codec_put(CozeCodec *codec, CozeBuf *buf, Datum value, bool isnull);

/*
 * Decode bytes that an encoder with the same format made (binary as its
 * descriptor says).  Constraints of domains are checked, also for NULL, and the
 * type modifier is applied.  Result in CurrentMemoryContext, never pointing into
 * data.  Bad bytes: ERROR.
 */
extern Datum coze_codec_get(CozeCodec *codec, bool binary, const CozeValue *value, bool *isnull);

/* First 8 bytes, as a number, of the SHA-256 of an encoded descriptor; never 0. */
extern uint64 coze_codec_descriptor_hash(const char *data, Size size);

#endif							/* COZE_CODEC_H */
