# Triggers that change rows which wait for their turn, on both nodes: the other node ends
# where the author did (rules superseded and key-lives-again).

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_pair(schema => q{
    CREATE TABLE f (id int PRIMARY KEY, v int, e text);
    CREATE TABLE p (id int PRIMARY KEY, v int, e text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (4);
    CREATE TABLE p2 (e text, gone int, v int, id int NOT NULL);
    ALTER TABLE p2 DROP COLUMN gone;
    ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (4) TO (9);
    CREATE TABLE p3 PARTITION OF p DEFAULT;
    CREATE FUNCTION r(n int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT floor(random() * n)::int';
    CREATE FUNCTION act(t text, depth int) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        k int := public.r(8);
    BEGIN
        PERFORM set_config('capture_test.depth', (depth + 1)::text, true);
        BEGIN
            EXECUTE format((ARRAY[
                'INSERT INTO %1$I VALUES (%2$s, public.r(100))',
                'INSERT INTO %1$I SELECT public.r(8), public.r(100) FROM generate_series(1, 3) ON CONFLICT (id) DO NOTHING',
                'UPDATE %1$I SET v = v + 1000 WHERE id >= %2$s',
                'UPDATE %1$I SET id = public.r(8) WHERE id = %2$s',
                'UPDATE %1$I SET id = id + 10 WHERE id IN (%2$s, public.r(8))',
                'DELETE FROM %1$I WHERE id >= %2$s OR id = public.r(8)',
                'INSERT INTO %1$I VALUES (%2$s, public.r(100)), (public.r(8), 5) ON CONFLICT (id) DO UPDATE SET v = %1$I.v + excluded.v',
                'UPDATE %1$I SET id = id %% 10 WHERE id >= 10',
                'WITH d AS (DELETE FROM %1$I WHERE id <= %2$s RETURNING *)
                 INSERT INTO %1$I SELECT id + 20, v FROM d ON CONFLICT DO NOTHING'])[1 + public.r(9)], t, k);
            IF public.r(4) = 0 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN unique_violation OR raise_exception OR triggered_data_change_violation OR cardinality_violation THEN NULL;
        END;
        PERFORM set_config('capture_test.depth', depth::text, true);
    END $$;
    CREATE FUNCTION act_again() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        depth int := coalesce(nullif(current_setting('capture_test.depth', true), ''), '0')::int;
    BEGIN
        IF depth < 3 AND public.r(3) = 0 THEN
            PERFORM public.act(TG_ARGV[0], depth);
        END IF;
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;
    CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON f FOR EACH ROW EXECUTE FUNCTION act_again('f');
    CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON f FOR EACH ROW EXECUTE FUNCTION act_again('f');
    CREATE CONSTRAINT TRIGGER c AFTER INSERT OR UPDATE OR DELETE ON f DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION act_again('f');
    CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON p FOR EACH ROW EXECUTE FUNCTION act_again('p');
    CREATE PROCEDURE act_often(seed float, n int) LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM setseed(seed);
        FOR i IN 1..n LOOP
            FOR j IN 1..1 + public.r(3) LOOP
                PERFORM public.act('f', 0);
                PERFORM public.act('p', 0);
            END LOOP;
            COMMIT;
        END LOOP;
    END $$});

# One after the other nothing is concurrent, so every difference is capture's.
my $seed = 0;
for my $round (1 .. 5)
{
    for my $node ($a, $b)
    {
        $seed += 0.05;
        $node->safe_psql('postgres', "CALL act_often($seed, 40)");
        ok(wait_sync($a, $b), 'in sync');
        same_rows([ $a, $b ], [qw(f p)], 'round ' . $round . ' on ' . $node->name);
    }
}

# TRUNCATE of a partition, and of the whole.
$a->safe_psql('postgres', 'INSERT INTO p SELECT i, i FROM generate_series(0, 12) i ON CONFLICT DO NOTHING; TRUNCATE p2');
ok(wait_sync($a, $b), 'in sync');
same_rows([ $a, $b ], ['p'], 'a partition was truncated');
$b->safe_psql('postgres', 'TRUNCATE p; INSERT INTO p VALUES (3, 3)');
ok(wait_sync($a, $b), 'in sync');
same_rows([ $a, $b ], ['p'], 'the table was truncated');

done_testing();
