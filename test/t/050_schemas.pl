# Schemas of real applications go under sync, and stay the same on two nodes.
#
# Each schema is loaded on one node in a database of its own; add_schema takes
# what has a key and names the rest; the second node joins with schema and rows;
# both write, change and delete rows in every table, foreign keys and all.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my $dir = $ENV{COZE_SCHEMAS} // '';
my %schemas = (
    roundcube => 'roundcube-core/usr/share/roundcube/SQL/postgres.initial.sql',
    icinga => 'icinga2-ido-pgsql/usr/share/icinga2-ido-pgsql/schema/pgsql.sql',
    ejabberd => 'ejabberd/usr/share/ejabberd/sql/pg.sql',
    ejabberd_new => 'ejabberd/usr/share/ejabberd/sql/pg.new.sql',
);
my @missing = grep { !-s "$dir/$schemas{$_}" } sort keys %schemas;
if (@missing)
{
    plan skip_all => "no schema files for @missing (test/deps.sh FOLDER fetches them)"
        if ($ENV{CI} // '') ne 'true';
    fail("schema files for @missing in \"$dir\"");
    done_testing();
    exit;
}

# Tables without a primary key or a unique index that could serve as one.
my $keyless = q{
    SELECT c.relname FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
       AND NOT EXISTS (SELECT FROM pg_index i
              WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate
                AND i.indpred IS NULL AND i.indexprs IS NULL
                AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) k
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k
                       WHERE NOT a.attnotnull))
     ORDER BY c.relname COLLATE "C"};

my $synced = q{SELECT relation::regclass::text FROM cozesync.tables ORDER BY relation::regclass::text COLLATE "C"};

# A function that writes rows number $2 to $3 into table $1, every column from
# the row's number, so that foreign keys find their rows.
my $fill = q{
CREATE FUNCTION pg_temp.fill(rel regclass, lo int, hi int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    cols text;
    vals text;
BEGIN
    SELECT string_agg(quote_ident(a.attname), ', '),
           string_agg(CASE
                WHEN t.typname IN ('varchar', 'bpchar', 'text') AND a.atttypmod > 4
                    THEN format('left(''v'' || g, %s)', a.atttypmod - 4)
                WHEN t.typname IN ('varchar', 'bpchar', 'text') THEN '''v'' || g'
                WHEN t.typname = 'bool' THEN 'g % 2 = 0'
                WHEN t.typname = 'bytea' THEN 'decode(md5(g::text), ''hex'')'
                WHEN t.typname LIKE 'timestamp%' OR t.typname = 'date'
                    THEN format('(timestamp ''2020-02-02'' + g * interval ''1 day'')::%s', t.typname)
                WHEN t.typcategory = 'N' THEN format('g::%s', t.typname)
                ELSE 'NULL' END, ', ')
      INTO cols, vals
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM generate_series(%s, %s) g',
        rel, cols, vals, lo, hi);
END $$;

-- Fill all tables, those that others refer to first.
CREATE FUNCTION pg_temp.fill_all(lo int, hi int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    todo regclass[] := ARRAY(SELECT relation::regclass FROM cozesync.tables);
    again regclass[];
    rel regclass;
    why text;
BEGIN
    LOOP
        again := '{}';
        FOREACH rel IN ARRAY todo LOOP
            BEGIN
                PERFORM pg_temp.fill(rel, lo, hi);
            EXCEPTION WHEN foreign_key_violation THEN
                again := again || rel;
                why := SQLERRM;
            END;
        END LOOP;
        EXIT WHEN again = '{}';
        IF cardinality(again) = cardinality(todo) THEN
            RAISE EXCEPTION 'cannot fill %: %', again, why;
        END IF;
        todo := again;
    END LOOP;
    RETURN 'filled';
END $$;

-- Change a column outside the key in rows whose key column says lo to hi.
CREATE FUNCTION pg_temp.change_all(word text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel regclass;
    col name;
BEGIN
    FOR rel IN SELECT relation::regclass FROM cozesync.tables LOOP
        SELECT a.attname INTO col
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped
           AND t.typname IN ('text', 'varchar') AND (a.atttypmod < 0 OR a.atttypmod > 20)
           AND NOT EXISTS (SELECT FROM pg_constraint k
                            WHERE a.attnum = ANY (k.conkey) AND k.conrelid = rel)
           AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel
                              AND i.indisunique AND a.attnum = ANY (i.indkey::int2[]))
         ORDER BY a.attnum LIMIT 1;
        CONTINUE WHEN col IS NULL;
        EXECUTE format('UPDATE %s SET %I = %L WHERE ctid IN
            (SELECT ctid FROM %1$s ORDER BY 1 LIMIT 7)', rel, col, word);
    END LOOP;
END $$;

-- Delete some rows of every table, whatever cascades from them.
CREATE FUNCTION pg_temp.delete_some(skip int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel regclass;
BEGIN
    FOR rel IN SELECT relation::regclass FROM cozesync.tables LOOP
        BEGIN
            EXECUTE format('DELETE FROM %s WHERE ctid IN
                (SELECT ctid FROM %1$s ORDER BY ctid OFFSET %s LIMIT 3)', rel, skip);
        EXCEPTION WHEN foreign_key_violation THEN
            NULL;
        END;
    END LOOP;
END $$;
};

my ($a, $b) = (new_node('a'), new_node('b'));

sub try_schema
{
    my ($db, $file) = @_;
    my @both = ($a, $b);

    $_->safe_psql('postgres', "CREATE DATABASE $db") for @both;
    my ($status, $out, $err) = $a->psql($db, '', extra_params => [ '-f', $file ]);
    is($status, 0, "$db: the schema loads") or diag($err);
    $_->safe_psql($db, 'CREATE EXTENSION cozesync') for @both;

    $a->safe_psql($db, sprintf(
        q{SELECT cozesync.create_group('%s', node_name => 'a', dsn => '%s')},
        $db, node_dsn($a, $db)));
    my @without = split /\n/, $a->safe_psql($db, $keyless);
    ($status, $out, $err) = $a->psql($db, q{SELECT cozesync.add_schema('public')});
    is($status, 0, "$db: add_schema") or diag($err);
    my @warned = sort map { /"(?:public\.)?([^"]+)"/ ? $1 : $_ } grep { /WARNING/ } split /\n/, $err;
    is("@warned", "@without", "$db: a warning names each table that has no key, and no other");
    my @tables = split /\n/, $a->safe_psql($db, $synced);
    is($out, scalar @tables, "$db: add_schema returns how many it took");
    is($a->safe_psql($db, $fill . 'SELECT pg_temp.fill_all(2, 21)'), 'filled', "$db: rows before the join");

    join_node($b, $a, dbname => $db);
    is($b->safe_psql($db, $synced), join("\n", @tables), "$db: the joiner syncs the same tables");
    same_rows(\@both, \@tables, "$db: the joiner has the rows", $db);

    $a->safe_psql($db, $fill . 'SELECT pg_temp.fill_all(41, 60)');
    $b->safe_psql($db, $fill . 'SELECT pg_temp.fill_all(81, 100)');
    ok(wait_sync(\$db, @both), "$db: in sync after inserts on both");
    same_rows(\@both, \@tables, "$db: same rows after inserts on both", $db);
    my @short = grep { $b->safe_psql($db, "SELECT count(*) FROM $_") < 60 } @tables;
    is("@short", '', "$db: every table has the rows of both");

    # Both write the same rows, at the same time: who loses is in the log, and
    # the nodes agree.
    my @under_way = (
        background($a, $fill . q{SELECT pg_temp.change_all('a was here'), pg_temp.delete_some(10)}, $db),
        background($b, $fill . q{SELECT pg_temp.change_all('b was here'), pg_temp.delete_some(30)}, $db));
    for my $session (@under_way)
    {
        my ($exit, undef, $said) = $session->finish;
        is($exit, 0, "$db: changes and deletions") or diag($said);
    }
    ok(wait_sync(\$db, @both), "$db: in sync after changes on both");
    same_rows(\@both, \@tables, "$db: same rows after changes and deletions on both", $db);
    ok(poll_until($_, q{SELECT bool_and(state = 'streaming' AND stopped_at IS NULL) FROM cozesync.links},
        't', $db), "$db: the links of " . $_->name . ' go on') for @both;
    return;
}

try_schema($_, "$dir/$schemas{$_}") for sort keys %schemas;

done_testing();
