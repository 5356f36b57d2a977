# WireSession - a client of PostgreSQL's simple query protocol, over a Unix socket.
#
# Made for tests that lose their servers: a session never dies and never waits for
# ever, it is lost; whether a COMMIT was acknowledged is known from its tag; and it
# costs no process.  Trust authentication only.

package WireSession;

use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(time);

# Options: host (folder of the socket), port, user, dbname, patience (seconds to wait
# for an answer, default 60), give_up (code; true: wait no more).  undef if no session
# can be had now.
sub new
{
    my ($class, %opt) = @_;
    my $socket = IO::Socket::UNIX->new(
        Type => SOCK_STREAM, Peer => "$opt{host}/.s.PGSQL.$opt{port}") or return undef;
    my $self = bless { %opt, socket => $socket, select => IO::Select->new($socket), in => '' }, $class;
    $self->{patience} //= 60;
    my $start = pack('N', 196608) . join('', map { "$_\0" }
            'user', $opt{user}, 'database', $opt{dbname}, 'application_name', $opt{name} // 'test') . "\0";
    $self->_send(pack('N', 4 + length $start) . $start) or return undef;
    my $answer = $self->_answer;
    return $answer->{lost} || $answer->{state} ? undef : $self;
}

sub _send
{
    my ($self, $data) = @_;
    local $SIG{PIPE} = 'IGNORE';
    while (length $data)
    {
        my $n = syswrite $self->{socket}, $data;
        return $self->_lose if !defined $n;
        substr($data, 0, $n) = '';
    }
    return 1;
}

sub _lose
{
    my ($self) = @_;
    close $self->{socket} if $self->{socket};
    $self->{socket} = undef;
    return 0;
}

# A message: (type, body); nothing if the session is lost.
sub _message
{
    my ($self) = @_;
    my $end = time + $self->{patience};
    while (1)
    {
        if (length $self->{in} >= 5)
        {
            my ($type, $size) = unpack 'a N', $self->{in};
            if (length $self->{in} > $size)
            {
                my $body = substr $self->{in}, 5, $size - 4;
                substr($self->{in}, 0, $size + 1) = '';
                return ($type, $body);
            }
        }
        if (!$self->{select}->can_read(0.5))
        {
            next if time < $end && !($self->{give_up} && $self->{give_up}->());
            $self->_lose;
            return;
        }
        my $n = sysread $self->{socket}, $self->{in}, 65536, length $self->{in};
        next if $n;
        $self->_lose;
        return;
    }
}

# All up to ReadyForQuery.
sub _answer
{
    my ($self) = @_;
    my %answer = (tags => [], rows => [], state => '', message => '', status => '');
    while (my ($type, $body) = $self->_message)
    {
        if ($type eq 'Z')
        {
            $answer{status} = $body;
            return \%answer;
        }
        elsif ($type eq 'C')
        {
            push @{ $answer{tags} }, unpack 'Z*', $body;
        }
        elsif ($type eq 'D')
        {
            my ($n, $at, @row) = (unpack('n', $body), 2);
            for (1 .. $n)
            {
                my $size = unpack 'l>', substr $body, $at, 4;
                push @row, $size < 0 ? undef : substr $body, $at + 4, $size;
                $at += 4 + ($size < 0 ? 0 : $size);
            }
            push @{ $answer{rows} }, \@row;
        }
        elsif ($type eq 'E')
        {
            my %field = map { substr($_, 0, 1) => substr $_, 1 } grep { length } split /\0/, $body;
            @answer{qw(state message)} = @field{qw(C M)};
        }
    }
    $answer{lost} = 1;
    return \%answer;
}

# Run SQL.  Returns a hash: tags, rows (of all statements), state (SQLSTATE of the error,
# or ''), message, status (of the transaction: I, T, E), lost (nothing is known of what became of it).
sub query
{
    my ($self, $sql) = @_;
    return { lost => 1, tags => [], rows => [], state => '', message => 'lost' } if !$self->{socket};
    my $message = "$sql\0";
    $self->_send('Q' . pack('N', 4 + length $message) . $message);
    return $self->_answer if $self->{socket};
    return { lost => 1, tags => [], rows => [], state => '', message => 'lost' };
}

sub lost { return !$_[0]{socket} }

sub close_session
{
    my ($self) = @_;
    $self->_send("X\0\0\0\4") if $self->{socket};
    $self->_lose;
    return;
}

1;
