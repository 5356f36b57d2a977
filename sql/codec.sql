--
-- Values to bytes and back: every kind of type, whatever the session's settings.
--
-- The functions are those of a test build (COZE_TESTING).
--
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA codec_test;
SET search_path = codec_test, public;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS ltree;
RESET client_min_messages;

CREATE FUNCTION is_binary(anyelement) RETURNS bool
AS '$libdir/cozesync', 'coze_debug_is_binary' LANGUAGE C;
CREATE FUNCTION encode(anyelement) RETURNS bytea
AS '$libdir/cozesync', 'coze_debug_encode' LANGUAGE C;
CREATE FUNCTION decode(bytes bytea, anyelement, as_binary bool, typmod int = -1) RETURNS anyelement
AS '$libdir/cozesync', 'coze_debug_decode' LANGUAGE C;
CREATE FUNCTION roundtrip(anyelement) RETURNS anyelement
AS '$libdir/cozesync', 'coze_debug_roundtrip' LANGUAGE C;

-- The same in a session where everything is set otherwise.
CREATE FUNCTION encode_elsewhere(value anyelement) RETURNS bytea
LANGUAGE plpgsql
SET client_encoding = 'LATIN1' SET datestyle = 'German' SET intervalstyle = 'sql_standard'
SET timezone = 'Asia/Kathmandu' SET search_path = '' SET extra_float_digits = -10
SET bytea_output = 'escape' SET xmloption = 'document' SET array_nulls = 'off'
SET quote_all_identifiers = 'on'
AS $$ BEGIN RETURN codec_test.encode(value); END $$;

CREATE FUNCTION decode_elsewhere(bytes bytea, value anyelement, as_binary bool) RETURNS anyelement
LANGUAGE plpgsql
SET client_encoding = 'EUC_JP' SET datestyle = 'SQL, DMY' SET intervalstyle = 'iso_8601'
SET timezone = 'America/St_Johns' SET search_path = 'pg_temp' SET extra_float_digits = -10
SET bytea_output = 'escape' SET xmloption = 'document' SET array_nulls = 'off'
AS $$ BEGIN RETURN codec_test.decode(bytes, value, as_binary, -1); END $$;

CREATE TYPE mood AS ENUM ('sad', 'größer', '日本');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN even AS positive CHECK (value % 2 = 0);
CREATE DOMAIN present AS text NOT NULL;
CREATE DOMAIN clock AS timestamp(0);
CREATE TYPE pair AS (n int, label text, at timestamptz, span interval, f float8, m mood);
CREATE TYPE odd AS (f float8, b bytea, c money);
CREATE TYPE nest AS (p pair, many pair[], k positive);
CREATE DOMAIN good_pair AS pair CHECK ((value).n > 0);
CREATE DOMAIN moods AS mood[];
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE TYPE mood_range AS RANGE (subtype = mood);
CREATE TYPE pair_range AS RANGE (subtype = pair);
CREATE DOMAIN mood_ranges AS mood_range[];
CREATE TABLE "Some Table" (a int);

CREATE TABLE cases (id int GENERATED ALWAYS AS IDENTITY, type text, literal text);
INSERT INTO cases (type, literal) VALUES
	('bool', 't'), ('bool', 'f'), ('"char"', 'x'), ('"char"', ''),
	('int2', '-2'), ('int4', '-2147483648'), ('int8', '9223372036854775807'),
	('oid', '4294967295'), ('xid', '7'), ('xid8', '18446744073709551615'), ('tid', '(1,2)'),
	('float4', '-0'), ('float4', 'NaN'), ('float4', '0.1'), ('float4', '1e38'),
	('float8', '-0'), ('float8', 'Infinity'), ('float8', '0.1'), ('float8', '5e-324'),
	('numeric', '0'), ('numeric', '1.00'), ('numeric', '1.0'), ('numeric', 'NaN'),
	('numeric', '-Infinity'), ('numeric', '-12345678901234567890.1234567890'),
	('money', '-12345.67'),
	('text', ''), ('text', 'größer, 日本, €'), ('varchar', 'größer'), ('bpchar', 'a  '),
	('name', 'größer'), ('json', '{"a" : 1, "a":"€"}'), ('jsonb', '{"b": 1.10, "a":"日本"}'),
	('jsonpath', '$."größer"[*] ? (@ > 1)'), ('xml', '<?xml version="1.0" encoding="UTF-8"?><a>€</a>'),
	('xml', 'no document'), ('bytea', '\x00ff'), ('uuid', '00112233-4455-6677-8899-aabbccddeeff'),
	('bit(5)', '10110'), ('varbit', ''), ('varbit', '1'),
	('date', 'infinity'), ('date', '-infinity'), ('date', '4713-01-01 BC'), ('date', '2024-02-29'),
	('time', '24:00'), ('timetz', '12:34:56.789+05:45'),
	('timestamp', '294276-12-31 23:59:59.999999'), ('timestamp', '-infinity'),
	('timestamptz', '2024-03-10 02:30:00+01'), ('timestamptz', 'infinity'),
	('interval', '1 year -2 months 3 days -04:05:06.789'), ('interval', '-1 day'),
	('inet', '10.1.2.3/8'), ('cidr', '2001:db8::/32'), ('macaddr', '08:00:2b:01:02:03'),
	('macaddr8', '08:00:2b:01:02:03:04:05'),
	('point', '(0.1,-0)'), ('line', '{1,2,3}'), ('lseg', '[(0,0),(1,1)]'), ('box', '(1,1),(0,0)'),
	('path', '[(0,0),(1,1)]'), ('polygon', '((0,0),(1,1),(1,0))'), ('circle', '<(0,0),0.3>'),
	('tsvector', '''größer'':1A,3 ''日本'''), ('tsquery', '''größer'' & !''a'':*B'),
	('pg_lsn', '16/B374D848'), ('pg_snapshot', '10:20:10,14'), ('int2vector', '1 2 3'),
	('oidvector', '1 2 3'), ('refcursor', 'größer'), ('aclitem', '=r/' || quote_ident(current_user)),
	('regclass', 'codec_test."Some Table"'), ('regclass', 'pg_class'), ('regtype', 'codec_test.pair[]'),
	('regproc', 'codec_test.is_binary'), ('regprocedure', 'codec_test.encode(anyelement)'),
	('regoperator', '+(int4,int4)'), ('regnamespace', 'codec_test'), ('regcollation', '"C"'),
	('regconfig', 'simple'), ('regdictionary', 'simple'), ('regclass[]', '{pg_class,NULL}'),
	('int4range', '[1,5)'), ('int4range', 'empty'), ('numrange', '(,1.10]'),
	('tstzrange', '["2024-01-01 00:00+00",)'), ('int4multirange', '{[1,2),[5,)}'),
	('datemultirange', '{}'), ('float_range', '[0.1,0.3]'), ('mood_range', '[sad,größer]'),
	('mood_range[]', '{"[sad,größer]",empty,NULL}'), ('mood_ranges', '{"[sad,größer]"}'),
	('float_multirange', '{[0.1,0.3]}'), ('pair_range', '["(1,a,,,,)","(2,b,,,,)"]'),
	('int4[]', '{1,NULL,3}'), ('int4[]', '[0:1][-1:0]={{1,2},{3,4}}'), ('int4[]', '{}'),
	('text[]', '{größer,NULL,"NULL",""}'), ('timestamptz[]', '{infinity,2024-01-01 00:00+00}'),
	('interval[]', '{1 mon -1 days}'), ('numeric[]', '{NaN,1.00}'), ('jsonb[]', '{"{\"a\": \"€\"}"}'),
	('xml[]', '{<a/>,text}'), ('mood', 'größer'), ('mood', '日本'), ('mood[]', '{sad,NULL}'),
	('moods', '{größer,sad}'), ('positive', '7'), ('even', '8'), ('even[]', '{8}'),
	('present', 'here'), ('clock', '2024-01-01 00:00:01'),
	('pair', '(1,"größer ""日本""","2024-01-01 00:00:00+00","1 mon -1 days",0.1,größer)'),
	('pair', '(,NULL,,,,)'), ('good_pair', '(1,,infinity,-01:00:00,NaN,)'),
	('odd', '(0.30000000000000004,"\\x00ff",$1.50)'), ('pair[]', '{"(1,x,,,,)",NULL}'),
	('nest', '("(1,x,\"2024-01-01 00:00:00+00\",\"1 day\",1e300,sad)","{""(2,y,,,,)"",NULL}",3)'),
	('citext', 'Größer'), ('citext[]', '{A,a,NULL}'), ('hstore', 'größer=>日本, a=>NULL'),
	('ltree', 'a.b.c'), ('lquery', 'a.*.b'), ('ltxtquery', 'a & b*'), ('ltree[]', '{a.b,NULL}');

-- One line a case.  same: the bytes in another session; back, back_elsewhere: the
-- decoded value is the same, to the bit; again: it is encoded to the same bytes.
CREATE FUNCTION run_case(type text, literal text, OUT is_binary bool, OUT bytes bytea, OUT same bool,
						 OUT back bool, OUT back_elsewhere bool, OUT again bool)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format(
		'SELECT is_binary(v), encode(v), encode(v) = encode_elsewhere(v),
			record_image_eq(ROW(v), ROW(roundtrip(v))),
			record_image_eq(ROW(v), ROW(decode_elsewhere(encode_elsewhere(v), v, is_binary(v)))),
			encode(v) = encode(roundtrip(v))
		 FROM (SELECT %L::%s AS v OFFSET 0) AS t', literal, type)
	INTO is_binary, bytes, same, back, back_elsewhere, again;
END $$;

SELECT type, literal, is_binary AS bin,
	   CASE WHEN is_binary THEN pg_catalog.encode(bytes, 'hex')
			-- text: behind the length
			ELSE convert_from(substr(bytes, 2), 'UTF8') END AS bytes
FROM cases, run_case(type, literal) WHERE type <> 'aclitem' ORDER BY id;
SELECT count(*) AS cases, count(*) FILTER (WHERE same) AS same, count(*) FILTER (WHERE back) AS back,
	   count(*) FILTER (WHERE back_elsewhere) AS back_elsewhere, count(*) FILTER (WHERE again) AS again
FROM cases, run_case(type, literal);
-- A tsquery that was received keeps its words in another order than one that was typed in.
SELECT type, literal, same, back, back_elsewhere, again FROM cases, run_case(type, literal)
WHERE (same AND back AND back_elsewhere AND again) IS NOT TRUE ORDER BY id;

-- NULL, of any type
SELECT type, bytes, is_binary FROM cases, run_case(type, NULL) WHERE type <> 'present'
	AND (bytes <> '\xfb' OR NOT same OR NOT back OR NOT back_elsewhere);

-- Text is accepted for every type, as it is what another version might send.
CREATE FUNCTION through_text(type text, literal text) RETURNS bool
LANGUAGE plpgsql AS $$
DECLARE
	same bool;
BEGIN
	EXECUTE format('SELECT record_image_eq(ROW(v), ROW(decode_elsewhere(encode(v::text), v, false)))
		FROM (SELECT %L::%s AS v OFFSET 0) AS t', literal, type) INTO same;
	RETURN same;
END $$;
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
-- (an unqualified name of this session's path would not be found there; bpchar is cast without
-- its blanks)
SELECT type, literal FROM cases WHERE type NOT LIKE 'reg%' AND NOT through_text(type, literal) ORDER BY id;
RESET datestyle;
RESET intervalstyle;

-- Lengths at the borders of their prefixes, also of toasted values
CREATE TABLE long (n int, t text, b bytea, j jsonb);
ALTER TABLE long ALTER t SET STORAGE EXTERNAL;
INSERT INTO long
SELECT n, repeat('é', n), decode(repeat('ab', n), 'hex'), jsonb_build_array(repeat('y', n))
FROM unnest(ARRAY[0, 125, 126, 250, 251, 32767, 32768, 65535, 65536, 1000000]) n;
SELECT n, substr(encode(t), 1, 5) AS text, substr(encode(b), 1, 5) AS bytea,
	   roundtrip(t) = t AND roundtrip(b) = b AND roundtrip(j) = j AS back
FROM long ORDER BY n;

-- The type modifier of the column here is applied, whatever was sent.
SELECT decode(encode('abc'::text), NULL::varchar, true, 4 + 3);
SELECT decode(encode('abcd'::text), NULL::varchar, true, 4 + 3);
SELECT decode(encode('éé'::text), NULL::bpchar, true, 4 + 4) || '|' AS padded;
SELECT decode(encode(1.005), NULL::numeric, true, ((5 << 16) | 2) + 4);
SELECT decode(encode(12345.6), NULL::numeric, true, ((5 << 16) | 2) + 4);
SELECT decode(encode('12:00:00.7'::time), NULL::time, true, 0);
SELECT decode(encode('2024-01-01 12:00:00.7'::timestamp), NULL::clock, true);

-- Constraints of domains are checked.
SELECT decode(encode(-1), NULL::positive, true);
SELECT decode(encode(3), NULL::even, true);
SELECT decode(encode(NULL::text), 'x'::present, true);
SELECT decode(encode('{8,9}'::text), NULL::even[], false);
SELECT decode(encode('(0,,,,,)'::text), NULL::good_pair, false);
SELECT decode(encode('glad'::text), NULL::mood, true);

-- Integers take the bytes that they need
SELECT count(*), bool_and(decode(encode(n), n, true) = n) AS back, string_agg(DISTINCT length(encode(n))::text, ' ') AS sizes
FROM (SELECT (sign * (power(2::numeric, bits) + more))::int8 AS n
	  FROM generate_series(0, 62) bits, unnest('{-2,-1,0,1}'::int[]) more, unnest('{-1,1}'::int[]) sign) AS numbers;

-- Bytes that are no value
SELECT decode('\x03000000', 1::int4, true);
SELECT decode('\x020007', 1::int4, true);
SELECT decode('\x050100000000', 1::int4, true);
SELECT decode('\x00', 1::int4, true);
SELECT decode('\x00', true, true);
SELECT decode('\x0101', '00112233-4455-6677-8899-aabbccddeeff'::uuid, true);
SELECT decode('\x0161', 1.0, true);
SELECT decode('\x09000000000000000000', 1.0, true);
SELECT decode('\x0480000001', current_date, true);
SELECT decode('\x02c328', ''::text, true);
SELECT decode('\x03610062', ''::text, true);
SELECT decode('\x03610062', 'a'::name, true);
SELECT decode(encode(repeat('x', 64)), ''::name, true);
SELECT decode('\x03027b7d', '{}'::jsonb, true);
SELECT decode('\x0400000001', NULL::regclass, true);
SELECT decode('\x0400000001', NULL::pair, true);
SELECT decode(encode('pg_catalog.none'::text), NULL::regclass, false);

-- An error leaves settings and conversion as they were.
SET client_encoding = 'LATIN1';
SET timezone = 'Asia/Tokyo';
SELECT decode('\x03017b7b', '{}'::jsonb, true);
SELECT decode(encode('(x,,,,,)'::text), NULL::pair, false);
SELECT pg_client_encoding(), length('é'), current_setting('timezone'), current_setting('search_path');
RESET client_encoding;
RESET timezone;

-- A table in pg_temp does not stand in for one of the catalog.
CREATE TEMP TABLE pg_class (a int);
SELECT decode(encode('pg_class'::text), NULL::regclass, false) = 'pg_catalog.pg_class'::regclass AS catalog;
DROP TABLE pg_temp.pg_class;

SET client_min_messages = warning;
DROP SCHEMA codec_test CASCADE;
