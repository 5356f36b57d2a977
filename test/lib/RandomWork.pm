# RandomWork - random statements on few keys and few unique values, so that nearly
# everything conflicts.  Draws from rand(): the caller seeds it.

package RandomWork;

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(pick random_id random_statement random_swap @random_tables $random_schema);

our @random_tables = qw(plain parted one_unique two_unique);
our $random_schema = q{
    CREATE TABLE plain (id int PRIMARY KEY, v text);
    CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (5);
    CREATE TABLE parted_high (v text, id int NOT NULL);
    ALTER TABLE parted ATTACH PARTITION parted_high FOR VALUES FROM (5) TO (100);
    CREATE TABLE one_unique (id int PRIMARY KEY, u text UNIQUE, v text);
    CREATE TABLE two_unique (id int PRIMARY KEY, x int, y int, w int, v text, UNIQUE (x, y));
    CREATE UNIQUE INDEX ON two_unique (w) WHERE w > 0;
};

sub pick { return $_[ rand @_ ] }
sub random_id { return 1 + int rand 8 }
sub letter { return pick(qw('p' 'q' 'r' 's' NULL)) }

# One statement on a table, with a value of the caller's for column v; what it may
# break it breaks by an error.
sub random_statement
{
    my ($value) = @_;
    my $v = "'$value'";
    my $id = random_id();
    return pick(
        "INSERT INTO plain VALUES ($id, $v)",
        "UPDATE plain SET v = $v WHERE id = $id",
        "UPDATE plain SET v = $v WHERE id = $id",
        "UPDATE plain SET id = " . random_id() . " WHERE id = $id",
        "DELETE FROM plain WHERE id = $id",
        "INSERT INTO parted VALUES ($id, $v)",
        "UPDATE parted SET v = $v WHERE id = $id",
        "UPDATE parted SET id = " . random_id() . ", v = $v WHERE id = $id",
        "DELETE FROM parted WHERE id = $id",
        (map { "INSERT INTO one_unique VALUES ($id, " . letter() . ", $v)" } 1 .. 3),
        (map { "UPDATE one_unique SET u = " . letter() . ", v = $v WHERE id = $id" } 1 .. 3),
        "UPDATE one_unique SET v = $v WHERE id = $id",
        "UPDATE one_unique SET id = " . random_id() . " WHERE id = $id",
        "DELETE FROM one_unique WHERE id = $id",
        (map { "INSERT INTO two_unique VALUES ($id, " . int(rand 3) . ', ' . int(rand 2) . ', ' . int(rand 4) . ", $v)" } 1 .. 3),
        "UPDATE two_unique SET x = " . int(rand 3) . ", v = $v WHERE id = $id",
        "UPDATE two_unique SET w = " . int(rand 4) . ", v = $v WHERE id = $id",
        "UPDATE two_unique SET v = $v WHERE id = $id",
        "DELETE FROM two_unique WHERE id = $id");
}

# Two rows swap their values by way of a third one: statements of one transaction.
sub random_swap
{
    my ($i, $j) = (random_id(), random_id());
    return (
        "CREATE TEMP TABLE s ON COMMIT DROP AS SELECT id, u FROM one_unique WHERE id IN ($i, $j)",
        "UPDATE one_unique SET u = NULL WHERE id IN (SELECT id FROM s)",
        "UPDATE one_unique o SET u = (SELECT s.u FROM s WHERE s.id <> o.id) WHERE id IN ($i, $j)"
            . " AND 2 = (SELECT count(*) FROM s)");
}

1;
