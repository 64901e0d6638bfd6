"""Programs that make the policies in `rence_lightning/embedded`; they are no part of the installed package."""
