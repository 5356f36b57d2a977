# History - what the change log says happened, against what was seen and what is on record.
#
# A second look at conflicts that shares nothing with the code: from the versions of the
# operations on a key, and what each author had seen, follows which of them were overtaken
# unseen.  For tables without a second unique key, under last update wins.  Needs a log
# that nothing was taken out of (cozesync.log_retention).

package History;

use strict;
use warnings;

my $epoch = 946_684_800_000_000;    # hlcs count from 2000 on

# run: code that returns the rows of a query on a node that has the whole log.
sub new
{
    my ($class, $run) = @_;
    my $self = bless { entries => {}, ops => {}, truncates => {}, tokens => {} }, $class;
    my $micros = '(extract(epoch FROM hlc) * 1000000)::bigint';
    my %id = map { $_->[1] => $_->[0] } @{ $run->('SELECT origin, node_name FROM cozesync.member') };
    my $seen = q{(SELECT string_agg(s.key || '=' || (extract(epoch FROM s.value::timestamptz) * 1000000)::bigint, ' ')
        FROM jsonb_each_text(seen) s)};
    for (@{ $run->("SELECT origin, $micros, $seen FROM cozesync.entries()") })
    {
        my ($origin, $hlc, $vector) = @$_;
        my $version = version($hlc, $id{$origin});
        my %seen = map { my ($k, $v) = split /=/; ($id{$k} // $k) => $v } split / /, $vector // '';
        $self->{entries}{$version} = { version => $version, origin => $id{$origin}, hlc => $hlc, seen => \%seen };
    }
    for (@{ $run->("SELECT origin, $micros, relation, operation, key, old_row ->> 'id', new_row ->> 'v' FROM cozesync.changes()"
                . " WHERE relation ~ '(hot|come_and_go|plain|parted|toasted)\$'") })
    {
        my ($origin, $hlc, $relation, $operation, $key, $old_id, $value) = @$_;
        $relation =~ s/.*\.//;
        $self->take(version($hlc, $id{$origin}), $relation, $operation, $key, $old_id, $value);
    }
    return $self;
}

sub version
{
    my ($hlc, $origin) = @_;
    return sprintf '%020d %020s', $hlc, $origin;
}

# One change; of an entry the last one on each key counts.
sub take
{
    my ($self, $version, $relation, $operation, $key, $old_id, $value) = @_;
    if ($operation eq 'truncate')
    {
        delete $self->{ops}{$relation}{$_}{$version} for keys %{ $self->{ops}{$relation} };
        $self->{truncates}{$relation}{$version} = 1;
        return;
    }
    return if $operation !~ /^(insert|update|delete)$/;
    # a change of key deletes the old one
    $self->{ops}{$relation}{qq({"id": $old_id})}{$version} = 'delete'
        if $operation eq 'update' && defined $old_id && $key ne qq({"id": $old_id});
    $self->{ops}{$relation}{$key}{$version} = $operation eq 'delete' ? 'delete' : 'write';
    $self->{tokens}{$relation}{$value} = $version if defined $value;
    return;
}

sub has_seen
{
    my ($self, $later, $earlier) = @_;
    my ($l, $e) = @{ $self->{entries} }{ $later, $earlier };
    return 0 if !$l || !$e;
    return 1 if $l->{origin} eq $e->{origin};
    return ($l->{seen}{ $e->{origin} } // 0) >= $e->{hlc};
}

# Writes that a later one overtook without having seen them, and that no later one had seen:
# each must be on record.  on_record: { "table key version" => 1 }.  Returns those that are not.
sub unexplained
{
    my ($self, $on_record) = @_;
    my @missing;
    for my $table (sort keys %{ $self->{ops} })
    {
        my @truncates = keys %{ $self->{truncates}{$table} // {} };
        for my $key (sort keys %{ $self->{ops}{$table} })
        {
            my $ops = $self->{ops}{$table}{$key};
            my @versions = sort keys %$ops, @truncates;
            for my $i (0 .. $#versions - 1)
            {
                my $x = $versions[$i];
                next if ($ops->{$x} // '') ne 'write';
                next if grep { $self->has_seen($_, $x) } @versions[ $i + 1 .. $#versions ];
                push @missing, "$table $key $x" if !$on_record->{"$table $key $x"};
            }
        }
    }
    return @missing;
}

# Steps back in what a reader saw: lines "session id value".  Values that the log does not know
# went down with the server that wrote them (synchronous_commit = off): nobody else may have seen them.
sub steps_back
{
    my ($self, $table, $name, @lines) = @_;
    my (%last, @wrong);
    for (@lines)
    {
        my ($session, $id, $value) = split / /;
        my $at = \$last{"$session $id"};
        if ($value eq '-')
        {
            $$at->{absent} = 1 if $$at;
            next;
        }
        my $version = $value =~ /^start/ ? '' : $self->{tokens}{$table}{$value};
        if (!defined $version)
        {
            push @wrong, "$name shows $value of row $id, which is in no log" if $value !~ /^$name/;
            next;
        }
        push @wrong, "$name shows $value of row $id after $$at->{value}"
            if $$at && ($version lt $$at->{version} || ($version eq $$at->{version} && $$at->{absent}));
        $$at = { version => $version, value => $value };
    }
    return @wrong;
}

# Key of on_record for a row of cozesync.conflict.
sub record_name
{
    my ($table, $key, $loser_hlc, $loser_origin) = @_;
    return "$table $key " . version($loser_hlc + $epoch, $loser_origin);
}

1;
